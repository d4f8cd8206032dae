// Products with AVX512-VNNI: vpdpbusd on unsigned codes or levels above the lowest, and int8 activations. Included inside a
// namespace: see sets.hpp. A step is one register: 16 rows x 4 inputs.

constexpr int ROWS = 12;
constexpr bool POSITIVE = false;
constexpr int STREAM = 4;

inline Mode mode_of(const Weight& weight) {
    int range = 0;
    if (weight.bits < 8 || weight.levels) return unsigned_mode(weight, range);
    Mode mode;
    mode.wide = false, mode.offset = -128;
    return mode;
}

inline V512 load(const void* at) { return _mm512_loadu_si512(at); }
inline void add_to(int32_t* at, V512 value) { _mm512_storeu_si512(at, _mm512_add_epi32(load(at), value)); }
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

template <int... I>
__attribute__((noinline)) void product_of(Each<I...>, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                                          int64_t steps, int32_t* sums) {
    const uint8_t* const own[] = {rows[I]...};
    V512 sum[sizeof...(I)];
    ((sum[I] = _mm512_setzero_si512()), ...);
    for (int64_t step = 0; step < steps; ++step, panel += STEP_BYTES) {
        const V512 weights = load(panel);
        const int64_t offset = offsets[step];
        ((sum[I] = _mm512_dpbusd_epi32(sum[I], weights, four_bytes(own[I] + offset))), ...);
    }
    (add_to(sums + I * TILE, sum[I]), ...);
}

inline void product(int count, const Mode&, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                    int64_t steps, int32_t* sums) {
    for (; count >= 12; count -= 12, rows += 12, sums += 12 * TILE) product_of(First<12>(), panel, rows, offsets, steps, sums);
    for (; count >= 4; count -= 4, rows += 4, sums += 4 * TILE) product_of(First<4>(), panel, rows, offsets, steps, sums);
    if (count == 3) product_of(First<3>(), panel, rows, offsets, steps, sums);
    if (count == 2) product_of(First<2>(), panel, rows, offsets, steps, sums);
    if (count == 1) product_of(First<1>(), panel, rows, offsets, steps, sums);
}

// Phases take turns at two sums, so that a product need not wait for the one before.
template <int BITS, int... I>
__attribute__((noinline)) void stream_bits(Each<I...>, const Mode& mode, const uint8_t* at, const uint8_t* const* rows,
                                           int64_t first, int64_t blocks, int32_t* sums) {
    constexpr int PHASES = 8 / BITS;
    const uint8_t* const own[] = {rows[I] + first * PHASES * 4 ...};
    const V512 table = table_of(mode);
    V512 even[sizeof...(I)], odd[sizeof...(I)];
    ((even[I] = odd[I] = _mm512_setzero_si512()), ...);
    int64_t x = 0;
    for (int64_t block = 0; block < blocks; ++block, at += STEP_BYTES) {
        const V512 bytes = load(at);
        _mm_prefetch(reinterpret_cast<const char*>(at + PREFETCH), _MM_HINT_T0);
#pragma GCC unroll 4
        for (int phase = 0; phase < PHASES; phase += 2, x += 4) {
            const V512 codes = codes_at<BITS>(bytes, phase, mode.mapped, table);
            ((even[I] = _mm512_dpbusd_epi32(even[I], codes, four_bytes(own[I] + x))), ...);
            if constexpr (PHASES > 1) {
                x += 4;
                const V512 next = codes_at<BITS>(bytes, phase + 1, mode.mapped, table);
                ((odd[I] = _mm512_dpbusd_epi32(odd[I], next, four_bytes(own[I] + x))), ...);
            }
        }
    }
    (add_to(sums + I * TILE, _mm512_add_epi32(even[I], odd[I])), ...);
}

template <int COUNT>
inline void stream_rows(int bits, const Mode& mode, const uint8_t* tile, const uint8_t* const* rows, int64_t first,
                        int64_t blocks, int32_t* sums) {
    const uint8_t* at = tile + first * STEP_BYTES;
    if (bits == 8) return stream_bits<8>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    if (bits == 4) return stream_bits<4>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    if (bits == 2) return stream_bits<2>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    stream_bits<1>(First<COUNT>(), mode, at, rows, first, blocks, sums);
}

// sums[count][16] += what `count` rows make with `blocks` of the tile's blocks of codes.
inline void stream(int count, const Weight& weight, const Mode& mode, const uint8_t* tile, const uint8_t* const* rows,
                   int64_t first, int64_t blocks, int32_t* sums) {
    if (count == 1) return stream_rows<1>(weight.bits, mode, tile, rows, first, blocks, sums);
    if (count == 2) return stream_rows<2>(weight.bits, mode, tile, rows, first, blocks, sums);
    if (count == 3) return stream_rows<3>(weight.bits, mode, tile, rows, first, blocks, sums);
    stream_rows<4>(weight.bits, mode, tile, rows, first, blocks, sums);
}
