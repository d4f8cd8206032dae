// Few rows with AVX2: every code is read once and used at once. Included after avx2.hpp, inside its namespace.
//
// Activations are int8 here for every weight. Signed levels go through |w| as the unsigned operand and x with w's sign: a
// pair of such products is 2 * 128 * 127 at most, which 16 bits hold.

template <int BITS, int COUNT, bool MAPPED>
inline void stream_unsigned(const Mode& mode, const uint8_t* at, const uint8_t* const* rows, int64_t first, int64_t blocks,
                            int32_t* sums) {
    constexpr int PHASES = 8 / BITS;
    const __m256i ones = _mm256_set1_epi16(1), table = table_of(mode);
    const int64_t most = mode.flush / PHASES;
    int64_t x = first * PHASES * 4;
    for (int64_t block = 0; block < blocks;) {
        const int64_t end = std::min(blocks, block + most);
        __m256i low[COUNT], high[COUNT];
        for (int i = 0; i < COUNT; ++i) low[i] = high[i] = _mm256_setzero_si256();
        for (; block < end; ++block, at += STEP_BYTES) {
            const __m256i left = load(at), right = load(at + 32);
            _mm_prefetch(reinterpret_cast<const char*>(at + PREFETCH), _MM_HINT_T0);
#pragma GCC unroll 8
            for (int phase = 0; phase < PHASES; ++phase, x += 4) {
                const __m256i one = codes_at<BITS>(left, phase, MAPPED, table);
                const __m256i two = codes_at<BITS>(right, phase, MAPPED, table);
                for (int i = 0; i < COUNT; ++i) {
                    const __m256i with = four_bytes(rows[i] + x);
                    low[i] = _mm256_add_epi16(low[i], _mm256_maddubs_epi16(one, with));
                    high[i] = _mm256_add_epi16(high[i], _mm256_maddubs_epi16(two, with));
                }
            }
        }
        for (int i = 0; i < COUNT; ++i) {
            add_to(sums + i * TILE, _mm256_madd_epi16(low[i], ones));
            add_to(sums + i * TILE + 8, _mm256_madd_epi16(high[i], ones));
        }
    }
}

inline __m256i signed_products(__m256i size, __m256i weights, __m256i x, __m256i ones) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(x, weights)), ones);
}

template <int BITS, int COUNT>
inline void stream_signed(const Mode& mode, const uint8_t* at, const uint8_t* const* rows, int64_t first, int64_t blocks,
                          int32_t* sums) {
    constexpr int PHASES = 8 / BITS;
    const __m256i ones = _mm256_set1_epi16(1), table = table_of(mode);
    __m256i low[COUNT], high[COUNT];
    for (int i = 0; i < COUNT; ++i) low[i] = high[i] = _mm256_setzero_si256();
    int64_t x = first * PHASES * 4;
    for (int64_t block = 0; block < blocks; ++block, at += STEP_BYTES) {
        const __m256i left = load(at), right = load(at + 32);
        _mm_prefetch(reinterpret_cast<const char*>(at + PREFETCH), _MM_HINT_T0);
#pragma GCC unroll 8
        for (int phase = 0; phase < PHASES; ++phase, x += 4) {
            const __m256i one = codes_at<BITS>(left, phase, true, table), two = codes_at<BITS>(right, phase, true, table);
            const __m256i one_size = _mm256_abs_epi8(one), two_size = _mm256_abs_epi8(two);
            for (int i = 0; i < COUNT; ++i) {
                const __m256i with = four_bytes(rows[i] + x);
                low[i] = _mm256_add_epi32(low[i], signed_products(one_size, one, with, ones));
                high[i] = _mm256_add_epi32(high[i], signed_products(two_size, two, with, ones));
            }
        }
    }
    for (int i = 0; i < COUNT; ++i) add_to(sums + i * TILE, low[i]), add_to(sums + i * TILE + 8, high[i]);
}

template <int BITS, int COUNT>
inline void stream_bits(const Mode& mode, const uint8_t* tile, const uint8_t* const* rows, int64_t first, int64_t blocks,
                        int32_t* sums) {
    const uint8_t* at = tile + first * STEP_BYTES;
    const uint8_t* own[COUNT];
    for (int i = 0; i < COUNT; ++i) own[i] = rows[i];
    if (mode.wide) return stream_signed<BITS, COUNT>(mode, at, own, first, blocks, sums);
    if constexpr (BITS < 8) {
        if (mode.mapped) return stream_unsigned<BITS, COUNT, true>(mode, at, own, first, blocks, sums);
        stream_unsigned<BITS, COUNT, false>(mode, at, own, first, blocks, sums);
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

// sums[count][16] += what `count` rows make with `blocks` of the tile's blocks of codes.
inline void stream(int count, const Weight& weight, const Mode& mode, const uint8_t* tile, const uint8_t* const* rows,
                   int64_t first, int64_t blocks, int32_t* sums) {
    if (count == 1) return stream_rows<1>(weight.bits, mode, tile, rows, first, blocks, sums);
    if (count == 2) return stream_rows<2>(weight.bits, mode, tile, rows, first, blocks, sums);
    if (count == 3) return stream_rows<3>(weight.bits, mode, tile, rows, first, blocks, sums);
    stream_rows<4>(weight.bits, mode, tile, rows, first, blocks, sums);
}
