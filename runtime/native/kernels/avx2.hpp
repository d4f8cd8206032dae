// Products with AVX2. Included inside a namespace: see sets.hpp.
//
// Up to 4 bits: vpmaddubsw with the codes as the unsigned operand; its 16-bit sums hold `flush` steps, then vpmaddwd with
// ones widens them. 8 bits, and levels too far apart for that: vpmaddwd on 16-bit operands, which is always exact.
// A panel step is 64 bytes: 16 rows x 4 codes, or 16 rows x 2 levels of 16 bits. Where no activation is below 0 they are the
// unsigned operand and levels the signed one, 16 rows x 4 bytes: a pair of products is 2 * 127 * 128 at most.

constexpr int ROWS = 6, TILES = 1;
constexpr int64_t BLOCK_BYTES = 192 << 10;  // of activations at a time: they stay in the second-level cache
constexpr int STREAM = 4;
constexpr int PREFETCH = 2048;   // bytes ahead
constexpr int LONGEST = 128;     // steps between flushes
constexpr bool POSITIVE = true;  // there is a way for activations without negative values: narrow, with `flush` 0

inline Mode mode_of(const Weight& weight) {
    if (weight.bits == 8) return wide_mode(weight);
    int range = 0;
    Mode mode = unsigned_mode(weight, range);
    mode.flush = range ? std::min(LONGEST, INT16_MAX / (2 * LARGEST * range)) : LONGEST;
    return mode.flush >= weight.phases() ? mode : wide_mode(weight);
}

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline void store(void* at, __m256i value) { _mm256_storeu_si256(static_cast<__m256i*>(at), value); }
inline void add_to(int32_t* at, __m256i value) { store(at, _mm256_add_epi32(load(at), value)); }
typedef int32_t __attribute__((may_alias)) Four;

// low, high += a step's products with the 4 bytes at x. In assembly: sums, weights and these two take all 16 registers, and
// the compiler, left alone, keeps sums in memory.
#define MODELMILL_PRODUCTS(name, multiply, add)                                                                 \
    __attribute__((always_inline)) inline void name(__m256i& low, __m256i& high, __m256i first, __m256i second, \
                                                    const uint8_t* x) {                                         \
        __m256i one, two;                                                                                       \
        asm("vpbroadcastd %[x], %[two]\n\t" multiply " %[two], %[first], %[one]\n\t" multiply                   \
            " %[two], %[second], %[two]\n\t" add " %[one], %[low], %[low]\n\t" add " %[two], %[high], %[high]"  \
            : [low] "+x"(low), [high] "+x"(high), [one] "=&x"(one), [two] "=&x"(two)                            \
            : [first] "x"(first), [second] "x"(second), [x] "m"(*reinterpret_cast<const Four*>(x)));            \
    }
MODELMILL_PRODUCTS(add_narrow, "vpmaddubsw", "vpaddw")
MODELMILL_PRODUCTS(add_wide, "vpmaddwd", "vpaddd")
#undef MODELMILL_PRODUCTS

// The same for activations without negative values. Weights are read from the panel each time, in place of two registers.
__attribute__((always_inline)) inline void add_positive(__m256i& low, __m256i& high, const uint8_t* panel, __m256i ones,
                                                        const uint8_t* x) {
    __m256i one, two;
    asm("vpbroadcastd %[x], %[two]\n\tvpmaddubsw %[first], %[two], %[one]\n\tvpmaddubsw %[second], %[two], %[two]\n\t"
        "vpmaddwd %[ones], %[one], %[one]\n\tvpmaddwd %[ones], %[two], %[two]\n\t"
        "vpaddd %[one], %[low], %[low]\n\tvpaddd %[two], %[high], %[high]"
        : [low] "+x"(low), [high] "+x"(high), [one] "=&x"(one), [two] "=&x"(two)
        : [first] "m"(*reinterpret_cast<const __m256i*>(panel)), [second] "m"(*reinterpret_cast<const __m256i*>(panel + 32)),
          [ones] "x"(ones), [x] "m"(*reinterpret_cast<const Four*>(x)));
}

// Half a tile's step: 8 rows x 4 codes at one phase, through the table where there is one.
template <int BITS>
inline __m256i codes_at(__m256i bytes, int phase, bool mapped, __m256i table) {
    if constexpr (BITS == 8) return bytes;
    const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(bytes, phase * BITS), _mm256_set1_epi8((1 << BITS) - 1));
    return mapped ? _mm256_shuffle_epi8(table, codes) : codes;
}

inline __m256i table_of(const Mode& mode) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(mode.table)));
}

// 8 rows x 4 bytes as 16-bit pairs: inputs 0 and 1 of the rows, and inputs 2 and 3.
inline void widen(__m256i bytes, uint8_t* first, uint8_t* second) {
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, order), 0b11011000);
    store(first, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(pairs)));
    store(second, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(pairs, 1)));
}

template <int BITS>
inline void decode_bits(const Mode& mode, const uint8_t* at, int64_t blocks, uint8_t* panel) {
    const __m256i table = table_of(mode);
    for (int64_t block = 0; block < blocks; ++block, at += STEP_BYTES) {
        alignas(32) uint8_t looked_up[STEP_BYTES];
        const uint8_t* bytes = at;
        if (BITS == 8 && mode.mapped) {
            for (int i = 0; i < STEP_BYTES; ++i) looked_up[i] = mode.table[at[i]];
            bytes = looked_up;
        }
        const __m256i low = load(bytes), high = load(bytes + 32);
        for (int phase = 0; phase < 8 / BITS; ++phase) {
            const __m256i first = codes_at<BITS>(low, phase, mode.mapped, table);
            const __m256i second = codes_at<BITS>(high, phase, mode.mapped, table);
            if (mode.wide) {
                widen(first, panel, panel + STEP_BYTES);
                widen(second, panel + 32, panel + STEP_BYTES + 32);
            } else {
                store(panel, first), store(panel + 32, second);
            }
            panel += mode.per_quad() * STEP_BYTES;
        }
    }
}

// `first` is a multiple of 16 steps; whole blocks are decoded, up to 15 steps more than asked for.
inline void decode(const Weight& weight, const Mode& mode, const uint8_t* tile, int64_t first, int64_t steps, uint8_t* panel) {
    const int64_t block = weight.phases() * mode.per_quad();
    const uint8_t* at = tile + first / block * STEP_BYTES;
    const int64_t blocks = (steps + block - 1) / block;
    if (weight.bits == 8) decode_bits<8>(mode, at, blocks, panel);
    if (weight.bits == 4) decode_bits<4>(mode, at, blocks, panel);
    if (weight.bits == 2) decode_bits<2>(mode, at, blocks, panel);
    if (weight.bits == 1) decode_bits<1>(mode, at, blocks, panel);
}

template <int... I>
__attribute__((noinline)) void narrow_product(Each<I...>, int flush, const uint8_t* panel, const uint8_t* const* rows,
                                              const int32_t* offsets, int64_t steps, int32_t* sums) {
    const uint8_t* const own[] = {rows[I]...};
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t step = 0; step < steps;) {
        const int64_t end = std::min<int64_t>(steps, step + flush);
        __m256i low[sizeof...(I)], high[sizeof...(I)];
        ((low[I] = high[I] = _mm256_setzero_si256()), ...);
        for (; step < end; ++step, panel += STEP_BYTES) {
            const __m256i first = load(panel), second = load(panel + 32);
            const int64_t offset = offsets[step];
            (add_narrow(low[I], high[I], first, second, own[I] + offset), ...);
        }
        (add_to(sums + I * TILE, _mm256_madd_epi16(low[I], ones)), ...);
        (add_to(sums + I * TILE + 8, _mm256_madd_epi16(high[I], ones)), ...);
    }
}

template <int... I>
__attribute__((noinline)) void wide_product(Each<I...>, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                                            int64_t steps, int32_t* sums) {
    const uint8_t* const own[] = {rows[I]...};
    __m256i low[sizeof...(I)], high[sizeof...(I)];
    ((low[I] = high[I] = _mm256_setzero_si256()), ...);
    for (int64_t step = 0; step < steps; ++step, panel += STEP_BYTES) {
        const __m256i first = load(panel), second = load(panel + 32);
        const int64_t offset = offsets[step];
        (add_wide(low[I], high[I], first, second, own[I] + offset), ...);
    }
    (add_to(sums + I * TILE, low[I]), ...);
    (add_to(sums + I * TILE + 8, high[I]), ...);
}

template <int... I>
__attribute__((noinline)) void positive_product(Each<I...>, const uint8_t* panel, const uint8_t* const* rows,
                                                const int32_t* offsets, int64_t steps, int32_t* sums) {
    const uint8_t* const own[] = {rows[I]...};
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i low[sizeof...(I)], high[sizeof...(I)];
    ((low[I] = high[I] = _mm256_setzero_si256()), ...);
    for (int64_t step = 0; step < steps; ++step, panel += STEP_BYTES) {
        const int64_t offset = offsets[step];
        (add_positive(low[I], high[I], panel, ones, own[I] + offset), ...);
    }
    (add_to(sums + I * TILE, low[I]), ...);
    (add_to(sums + I * TILE + 8, high[I]), ...);
}

template <int COUNT>
inline void product_of(const Mode& mode, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets, int64_t steps,
                       int32_t* sums) {
    if (mode.wide) return wide_product(First<COUNT>(), panel, rows, offsets, steps, sums);
    if (mode.flush == 0) return positive_product(First<COUNT>(), panel, rows, offsets, steps, sums);
    narrow_product(First<COUNT>(), mode.flush, panel, rows, offsets, steps, sums);
}

inline void product(int, int count, const Mode& mode, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                    int64_t steps, int32_t* sums, int64_t) {
    switch (count) {
        case 1:
            return product_of<1>(mode, panel, rows, offsets, steps, sums);
        case 2:
            return product_of<2>(mode, panel, rows, offsets, steps, sums);
        case 3:
            return product_of<3>(mode, panel, rows, offsets, steps, sums);
        case 4:
            return product_of<4>(mode, panel, rows, offsets, steps, sums);
        case 5:
            return product_of<5>(mode, panel, rows, offsets, steps, sums);
        default:
            return product_of<6>(mode, panel, rows, offsets, steps, sums);
    }
}
