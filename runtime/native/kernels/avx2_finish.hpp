// What programs need besides products, for the sets that have AVX2: decoding, and the end of sums, 8 outputs at a time. Included
// inside a namespace: see sets.hpp.

inline __m256 as_floats(const int32_t* sums) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums)));
}
inline __m256 as_floats(const float* sums) { return _mm256_loadu_ps(sums); }

// The operations of `finish_one`, in its order.
template <bool RELU, bool RESIDUAL, typename Sum>
inline void finish_eight(const Ends& ends, int64_t at, const Sum* sums, const Pixels& pixels, int32_t* largest) {
    const __m256 scale = _mm256_load_ps(ends.scale + at), bias = _mm256_load_ps(ends.bias + at);
    const __m256 x_scale = _mm256_set1_ps(ends.x_scale);
    const __m256i size = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(largest));
    for (int i = 0; i < pixels.count; ++i, sums += TILE) {
        __m256 value = as_floats(sums + at);
        if constexpr (!std::is_same_v<Sum, float>) value = _mm256_mul_ps(_mm256_mul_ps(value, scale), x_scale);
        value = _mm256_add_ps(value, bias);
        if constexpr (RESIDUAL) value = _mm256_add_ps(value, _mm256_loadu_ps(pixels.added(i) + at));
        if constexpr (RELU) value = _mm256_max_ps(_mm256_setzero_ps(), value);  // in this order NaN stays
        _mm256_storeu_ps(pixels.out(i) + at, value);
        most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(value), size));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(largest), most);
}

template <bool RELU, bool RESIDUAL, typename Sum>
inline int64_t finish_vectors(const Ends& ends, const Sum* sums, const Pixels& pixels, int32_t* largest) {
    int64_t at = 0;
    for (; at + 8 <= ends.left; at += 8) finish_eight<RELU, RESIDUAL>(ends, at, sums, pixels, largest + at);
    return at;
}

// Values of 0..127; what is below 0 becomes 0. Returns how many it did.
inline int64_t rounded_positive(const float* values, int64_t count, float inverse, uint8_t* out) {
    const __m256 factor = _mm256_set1_ps(inverse), most = _mm256_set1_ps(LARGEST);
    const auto eight = [&](const float* from) {
        return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_loadu_ps(from), factor), most));
    };
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
        const __m256i first = _mm256_packs_epi32(eight(values + i), eight(values + i + 8));
        const __m256i second = _mm256_packs_epi32(eight(values + i + 16), eight(values + i + 24));
        const __m256i bytes = _mm256_packus_epi16(first, second);  // below 0 is 0
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_permutevar8x32_epi32(bytes, order));
    }
    return i;
}

inline void decode_levels(const Weight& weight, const Mode& mode, const uint8_t* tile, int64_t steps, uint8_t* panel) {
    decode(weight, mode, tile, 0, steps, panel);
}
