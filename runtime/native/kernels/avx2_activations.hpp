// What activations need of AVX2, for the sets that have it. Included inside a namespace: see sets.hpp.

// 8 values as whole numbers of -127..127, half to even.
inline __m256i rounded(const float* values, __m256 inverse) {
    const __m256 most = _mm256_set1_ps(LARGEST), scaled = _mm256_mul_ps(_mm256_loadu_ps(values), inverse);
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(scaled, _mm256_sub_ps(_mm256_setzero_ps(), most)), most));
}

// 16 of them in 16 bits.
inline __m256i rounded_pair(const float* values, __m256 inverse) {
    const __m256i pair = _mm256_packs_epi32(rounded(values, inverse), rounded(values + 8, inverse));
    return _mm256_permute4x64_epi64(pair, 0b11011000);
}

// As many as fill vectors; how many they were.
inline int64_t rounded_vectors(const float* values, int64_t count, float inverse, int16_t* out) {
    const __m256 factor = _mm256_set1_ps(inverse);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), rounded_pair(values + i, factor));
    return i;
}

inline int64_t rounded_vectors(const float* values, int64_t count, float inverse, int8_t* out) {
    const __m256 factor = _mm256_set1_ps(inverse);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m256i pair = rounded_pair(values + i, factor);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(pair), _mm256_extracti128_si256(pair, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bytes);
    }
    return i;
}

inline int32_t sum_of(const int8_t* values, int64_t count) {
    const __m256i flip = _mm256_set1_epi8(-128), zero = _mm256_setzero_si256();
    __m256i sums = zero;
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
        sums = _mm256_add_epi64(
            sums,
            _mm256_sad_epu8(_mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i)), flip), zero));
    const __m128i pair = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    int64_t sum = _mm_cvtsi128_si64(pair) + _mm_extract_epi64(pair, 1) - 128 * i;
    for (; i + 16 <= count; i += 16) {
        const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + i));
        const __m128i sad = _mm_sad_epu8(_mm_xor_si128(part, _mm256_castsi256_si128(flip)), _mm256_castsi256_si128(zero));
        sum += _mm_cvtsi128_si64(sad) + _mm_extract_epi64(sad, 1) - 128 * 16;
    }
    for (; i < count; ++i) sum += values[i];
    return static_cast<int32_t>(sum);
}
