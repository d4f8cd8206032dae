// Products of signs: XNOR-Net (Rastegari et al. 2016). A bit is 1 where the value is below 0; bits behind the row are 0.
#pragma once

#include <immintrin.h>

#include "rows.hpp"

namespace modelmill::sparse {

inline Index words_of(Index inputs) { return (inputs + 63) / 64; }

// Packs one row and returns the mean of its magnitudes, summed in eight lanes on every machine.
__attribute__((always_inline)) inline float pack_row(const float* x, Index inputs, uint64_t* signs) {
    float lanes[8] = {};
    for (Index k = 0; k < inputs; ++k) lanes[k % 8] += std::fabs(x[k]);
    for (Index word = 0; word < words_of(inputs); ++word) {
        uint64_t bits = 0;
        const Index first = 64 * word, count = std::min<Index>(64, inputs - first);
        for (Index k = 0; k < count; ++k) bits |= static_cast<uint64_t>(x[first + k] < 0.0f) << k;
        signs[word] = bits;
    }
    const float low = (lanes[0] + lanes[4]) + (lanes[2] + lanes[6]), high = (lanes[1] + lanes[5]) + (lanes[3] + lanes[7]);
    return (low + high) / static_cast<float>(inputs);
}
inline float pack_portable(const float* x, Index inputs, uint64_t* signs) { return pack_row(x, inputs, signs); }

MODELMILL_AVX2 inline float pack_avx2(const float* x, Index inputs, uint64_t* signs) {
    __m256 lanes = _mm256_setzero_ps();
    const __m256 sign = _mm256_set1_ps(-0.0f), zero = _mm256_setzero_ps();
    std::fill(signs, signs + words_of(inputs), 0);
    Index k = 0;
    for (; k + 8 <= inputs; k += 8) {
        const __m256 eight = _mm256_loadu_ps(x + k);
        lanes = _mm256_add_ps(lanes, _mm256_andnot_ps(sign, eight));
        const uint64_t below = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(eight, zero, _CMP_LT_OQ)));
        signs[k / 64] |= below << k % 64;
    }
    alignas(32) float sums[8];
    _mm256_store_ps(sums, lanes);
    for (; k < inputs; ++k) {
        sums[k % 8] += std::fabs(x[k]);
        signs[k / 64] |= static_cast<uint64_t>(x[k] < 0.0f) << k % 64;
    }
    const float low = (sums[0] + sums[4]) + (sums[2] + sums[6]), high = (sums[1] + sums[5]) + (sums[3] + sums[7]);
    return (low + high) / static_cast<float>(inputs);
}

inline Index differing_portable(const uint64_t* a, const uint64_t* b, Index words) {
    Index count = 0;
    for (Index i = 0; i < words; ++i) count += std::popcount(a[i] ^ b[i]);
    return count;
}

// Bits set in each byte: two look-ups of four bits.
MODELMILL_AVX2 inline __m256i counts(__m256i bits) {
    const __m256i four = _mm256_set1_epi8(15);
    const __m256i of =
        _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    return _mm256_add_epi8(_mm256_shuffle_epi8(of, _mm256_and_si256(bits, four)),
                           _mm256_shuffle_epi8(of, _mm256_and_si256(_mm256_srli_epi16(bits, 4), four)));
}

MODELMILL_AVX2 inline Index differing_avx2(const uint64_t* a, const uint64_t* b, Index words) {
    __m256i total = _mm256_setzero_si256();
    Index i = 0;
    while (i + 4 <= words) {
        __m256i bytes = _mm256_setzero_si256();
        const Index end = std::min(words - 3, i + 4 * 31);  // 31 times 8 still fits a byte
        for (; i < end; i += 4) {
            const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i));
            const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i));
            bytes = _mm256_add_epi8(bytes, counts(_mm256_xor_si256(left, right)));
        }
        total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    alignas(32) long long lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3] + differing_portable(a + i, b + i, words - i);
}

struct Signs {
    std::vector<uint64_t> bits;
    std::vector<float> means;
};

inline Signs pack(const float* x, Index rows, Index inputs, bool avx2) {
    Signs signs{std::vector<uint64_t>(rows * words_of(inputs)), std::vector<float>(rows)};
    for (Index m = 0; m < rows; ++m)
        signs.means[m] = (avx2 ? pack_avx2 : pack_portable)(x + m * inputs, inputs, signs.bits.data() + m * words_of(inputs));
    return signs;
}

}  // namespace modelmill::sparse
