// Products with AVX512-VNNI: vpdpbusd on unsigned codes or levels above the lowest, and int8 activations. Included inside a
// namespace: see sets.hpp. A step is one register: 16 rows x 4 inputs.

constexpr int ROWS = 12, TILES = 2;
constexpr int64_t BLOCK_BYTES = 384 << 10;  // of activations at a time: they stay in the second-level cache
constexpr bool POSITIVE = false;
constexpr int STREAM = 4;
constexpr int PREFETCH = 4096;  // bytes ahead

inline Mode mode_of(const Weight& weight) {
    int range = 0;
    if (weight.bits < 8 || weight.levels) return unsigned_mode(weight, range);
    Mode mode;
    mode.wide = false, mode.offset = -128;
    return mode;
}

inline V512 load(const void* at) { return _mm512_loadu_si512(at); }
inline void add_to(int32_t* at, V512 value) { _mm512_storeu_si512(at, _mm512_add_epi32(load(at), value)); }
inline void add_shifted(int32_t* at, V512 value, int bits) {
    int32_t values[TILE];
    _mm512_storeu_si512(values, value);
    for (int i = 0; i < TILE; ++i) at[i] += values[i] >> bits;
}
inline V512 four_bytes(const uint8_t* at) {
    int32_t value;
    std::memcpy(&value, at, sizeof value);
    return _mm512_set1_epi32(value);
}
inline V512 table_of(const Mode& mode) { return load(mode.table); }

// A step's 64 unsigned operands at one phase of a block of codes.
template <int BITS>
inline V512 codes_at(V512 bytes, int phase, bool mapped, V512 table) {
    if constexpr (BITS == 8) return _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
    const V512 shifted = phase == 0 ? bytes : _mm512_srli_epi16(bytes, static_cast<unsigned>(phase * BITS));
    const V512 codes = _mm512_and_si512(shifted, _mm512_set1_epi8((1 << BITS) - 1));
    return mapped ? _mm512_shuffle_epi8(table, codes) : codes;
}

template <int BITS>
inline void decode_bits(const Mode& mode, const uint8_t* at, int64_t blocks, uint8_t* panel) {
    if (BITS == 8 && mode.mapped) {
        for (int64_t i = 0; i < blocks * STEP_BYTES; ++i) panel[i] = mode.table[at[i]];
        return;
    }
    const V512 table = table_of(mode);
    for (int64_t block = 0; block < blocks; ++block, at += STEP_BYTES)
        for (int phase = 0; phase < 8 / BITS; ++phase, panel += STEP_BYTES)
            _mm512_storeu_si512(panel, codes_at<BITS>(load(at), phase, mode.mapped, table));
}

// `first` is a multiple of 16 steps; whole blocks are decoded, up to 15 steps more than asked for.
inline void decode(const Weight& weight, const Mode& mode, const uint8_t* tile, int64_t first, int64_t steps, uint8_t* panel) {
    const uint8_t* at = tile + first / weight.phases() * STEP_BYTES;
    const int64_t blocks = (steps + weight.phases() - 1) / weight.phases();
    if (weight.bits == 8) decode_bits<8>(mode, at, blocks, panel);
    if (weight.bits == 4) decode_bits<4>(mode, at, blocks, panel);
    if (weight.bits == 2) decode_bits<2>(mode, at, blocks, panel);
    if (weight.bits == 1) decode_bits<1>(mode, at, blocks, panel);
}

// sum += the products of 4 unsigned and 4 signed bytes. Not the intrinsic: GCC 12 copies its sum, and with more than a few of
// them writes them all to memory at every step.
inline __attribute__((always_inline)) void add_products(V512& sum, V512 codes, V512 x) {
#ifdef MODELMILL_EMULATE
    sum = _mm512_dpbusd_epi32(sum, codes, x);
#else
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
#endif
}

template <int... I>
__attribute__((noinline)) void one_tile(Each<I...>, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                                        int64_t steps, int32_t* sums) {
    const uint8_t* const own[] = {rows[I]...};
    V512 sum[sizeof...(I)];
    ((sum[I] = _mm512_setzero_si512()), ...);
    for (int64_t step = 0; step < steps; ++step, panel += STEP_BYTES) {
        const V512 weights = load(panel);
        const int64_t offset = offsets[step];
        (add_products(sum[I], weights, four_bytes(own[I] + offset)), ...);
    }
    (add_to(sums + I * TILE, sum[I]), ...);
}

// Two tiles at once: each activation is loaded once for both, so that products are the limit and not loads.
template <int... I>
__attribute__((noinline)) void two_tiles(Each<I...>, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                                         int64_t steps, int32_t* sums, int64_t apart) {
    const uint8_t* const own[] = {rows[I]...};
    V512 left[sizeof...(I)], right[sizeof...(I)];
    ((left[I] = right[I] = _mm512_setzero_si512()), ...);
    const auto add = [](V512& one, V512& other, V512 weights, V512 others, V512 x) __attribute__((always_inline)) {
        add_products(one, weights, x);
        add_products(other, others, x);
    };
    for (int64_t step = 0; step < steps; ++step, panel += STEP_BYTES) {
        const V512 weights = load(panel), others = load(panel + PANEL_BYTES);
        const int64_t offset = offsets[step];
        (add(left[I], right[I], weights, others, four_bytes(own[I] + offset)), ...);
    }
    (add_to(sums + I * TILE, left[I]), ...);
    (add_to(sums + apart + I * TILE, right[I]), ...);
}

template <int COUNT>
inline void product_of(int tiles, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets, int64_t steps,
                       int32_t* sums, int64_t apart) {
    tiles == 2 ? two_tiles(First<COUNT>(), panel, rows, offsets, steps, sums, apart)
               : one_tile(First<COUNT>(), panel, rows, offsets, steps, sums);
}
constexpr decltype(&product_of<1>) PRODUCTS[] = {product_of<1>, product_of<2>,  product_of<3>,  product_of<4>,
                                                 product_of<5>, product_of<6>,  product_of<7>,  product_of<8>,
                                                 product_of<9>, product_of<10>, product_of<11>, product_of<12>};

inline void product(int tiles, int count, const Mode&, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                    int64_t steps, int32_t* sums, int64_t apart) {
    PRODUCTS[count - 1](tiles, panel, rows, offsets, steps, sums, apart);
}
