// Few rows with AVX2: every code is read once and used at once. Included after avx2.hpp, inside its namespace.
//
// Activations are int8 here for every weight. Signed levels go through |w| as the unsigned operand and x with w's sign: a
// pair of such products is 2 * 128 * 127 at most, which 16 bits hold.

inline __m256i four_bytes(const uint8_t* at) {
    int32_t value;
    std::memcpy(&value, at, sizeof value);
    return _mm256_set1_epi32(value);
}

template <int BITS, bool MAPPED, int... I>
__attribute__((noinline)) void stream_unsigned(Each<I...>, const Mode& mode, const uint8_t* at, const uint8_t* const* rows,
                                               int64_t first, int64_t blocks, int32_t* sums) {
    constexpr int PHASES = 8 / BITS;
    const uint8_t* const own[] = {rows[I] + first * PHASES * 4 ...};
    const __m256i ones = _mm256_set1_epi16(1), table = table_of(mode);
    const int64_t most = mode.flush / PHASES;
    int64_t x = 0;
    for (int64_t block = 0; block < blocks;) {
        const int64_t end = std::min(blocks, block + most);
        __m256i low[sizeof...(I)], high[sizeof...(I)];
        ((low[I] = high[I] = _mm256_setzero_si256()), ...);
        for (; block < end; ++block, at += STEP_BYTES) {
            const __m256i left = load(at), right = load(at + 32);
            _mm_prefetch(reinterpret_cast<const char*>(at + PREFETCH), _MM_HINT_T0);
#pragma GCC unroll 8
            for (int phase = 0; phase < PHASES; ++phase, x += 4) {
                const __m256i one = codes_at<BITS>(left, phase, MAPPED, table);
                const __m256i two = codes_at<BITS>(right, phase, MAPPED, table);
                (add_narrow(low[I], high[I], one, two, own[I] + x), ...);
            }
        }
        (add_to(sums + I * TILE, _mm256_madd_epi16(low[I], ones)), ...);
        (add_to(sums + I * TILE + 8, _mm256_madd_epi16(high[I], ones)), ...);
    }
}

// sum += the products of weights, whose sizes are `size`, and x.
__attribute__((always_inline)) inline void add_signed(__m256i& sum, __m256i size, __m256i weights, __m256i x, __m256i ones) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(x, weights)), ones));
}

template <int BITS, int... I>
__attribute__((noinline)) void stream_signed(Each<I...>, const Mode& mode, const uint8_t* at, const uint8_t* const* rows,
                                             int64_t first, int64_t blocks, int32_t* sums) {
    constexpr int PHASES = 8 / BITS;
    const uint8_t* const own[] = {rows[I] + first * PHASES * 4 ...};
    const __m256i ones = _mm256_set1_epi16(1), table = table_of(mode);
    __m256i low[sizeof...(I)], high[sizeof...(I)];
    ((low[I] = high[I] = _mm256_setzero_si256()), ...);
    int64_t x = 0;
    for (int64_t block = 0; block < blocks; ++block, at += STEP_BYTES) {
        const __m256i left = load(at), right = load(at + 32);
        _mm_prefetch(reinterpret_cast<const char*>(at + PREFETCH), _MM_HINT_T0);
#pragma GCC unroll 8
        for (int phase = 0; phase < PHASES; ++phase, x += 4) {
            const __m256i one = codes_at<BITS>(left, phase, true, table), two = codes_at<BITS>(right, phase, true, table);
            const __m256i one_size = _mm256_abs_epi8(one), two_size = _mm256_abs_epi8(two);
            (add_signed(low[I], one_size, one, four_bytes(own[I] + x), ones), ...);
            (add_signed(high[I], two_size, two, four_bytes(own[I] + x), ones), ...);
        }
    }
    (add_to(sums + I * TILE, low[I]), ...);
    (add_to(sums + I * TILE + 8, high[I]), ...);
}

template <int BITS, int COUNT>
inline void stream_bits(const Mode& mode, const uint8_t* tile, const uint8_t* const* rows, int64_t first, int64_t blocks,
                        int32_t* sums) {
    const uint8_t* at = tile + first * STEP_BYTES;
    if (mode.wide) return stream_signed<BITS>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    if constexpr (BITS < 8) {
        if (mode.mapped) return stream_unsigned<BITS, true>(First<COUNT>(), mode, at, rows, first, blocks, sums);
        stream_unsigned<BITS, false>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    }
}

template <int COUNT>
inline void stream_rows(int bits, const Mode& mode, const uint8_t* tile, const uint8_t* const* rows, int64_t first,
                        int64_t blocks, int32_t* sums) {
    if (bits == 8) return stream_bits<8, COUNT>(mode, tile, rows, first, blocks, sums);
    if (bits == 4) return stream_bits<4, COUNT>(mode, tile, rows, first, blocks, sums);
    if (bits == 2) return stream_bits<2, COUNT>(mode, tile, rows, first, blocks, sums);
    stream_bits<1, COUNT>(mode, tile, rows, first, blocks, sums);
}
