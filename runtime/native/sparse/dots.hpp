// Exact products of int8 rows: a few rows of weights, dense or just written out, with every row of activations.
#pragma once

#include "blocks.hpp"
#include "expand.hpp"

namespace modelmill::sparse {

constexpr int TILE = 4;  // rows of weights at a time: with 4,096 inputs they stay in the first cache

inline int32_t dot_portable(const int8_t* w, const int8_t* x, Index inputs) {
    int32_t sum = 0;
    for (Index k = 0; k < inputs; ++k) sum += w[k] * x[k];
    return sum;
}

MODELMILL_AVX2 inline int32_t total(__m256i sum) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

// TILE rows of weights, M of activations; both are padded to 32 with zeros.
template <int M>
MODELMILL_AVX2 void dots_avx2(const int8_t* w, const int8_t* x, Index stride, int32_t (*sums)[TILE]) {
    __m256i sum[M][TILE];
    for (int r = 0; r < M; ++r)
        for (int i = 0; i < TILE; ++i) sum[r][i] = _mm256_setzero_si256();
    for (Index k = 0; k < stride; k += 32)
        for (int r = 0; r < M; ++r) {
            const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + r * stride + k));
            for (int i = 0; i < TILE; ++i)
                sum[r][i] = products(sum[r][i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i * stride + k)), codes);
        }
    for (int r = 0; r < M; ++r)
        for (int i = 0; i < TILE; ++i) sums[r][i] = total(sum[r][i]);
}

struct Result {
    const float* scale;
    const float* bias;
    float* out;
    Index outputs;
};

// Rows [n, n + count) of the result, from TILE rows of weights.
inline void multiply(const int8_t* w, const Codes& x, Index rows, bool avx2, Index n, Index count, const Result& to) {
    int32_t sums[2][TILE];
    for (Index m = 0; m < rows;) {
        const Index step = avx2 && m + 2 <= rows ? 2 : 1;
        if (avx2)
            (step == 2 ? dots_avx2<2> : dots_avx2<1>)(w, x.row(m), x.stride, sums);
        else
            for (Index i = 0; i < count; ++i) sums[0][i] = dot_portable(w + i * x.stride, x.row(m), x.stride);
        for (Index r = 0; r < step; ++r, ++m)
            for (Index i = 0; i < count; ++i)
                to.out[m * to.outputs + n + i] = scaled(sums[r][i], to.scale[n + i], x.scales[m], to.bias, n + i);
    }
}

// Output rows [from, to) of a sparse weight.
inline void sparse_rows(const Sparse& w, const Codes& x, Index rows, bool avx2, Index from, Index to, const Result& result) {
    std::vector<int8_t> tile(TILE * x.stride);
    for (Index n = from; n < to; n += TILE) {
        const Index count = std::min<Index>(TILE, to - n);
        for (Index i = 0; i < count; ++i)
            (avx2 ? expand_avx2<int8_t> : expand_portable<int8_t>)(w, n + i, tile.data() + i * x.stride);
        multiply(tile.data(), x, rows, avx2, n, count, result);
    }
}

// Output rows [from, to) of a dense weight whose rows are whole registers: what benchmarks compare with.
inline void dense_rows(const int8_t* w, const Codes& x, Index rows, bool avx2, Index from, Index to, const Result& result) {
    std::vector<int8_t> tail(TILE * x.stride);
    for (Index n = from; n < to; n += TILE) {
        const Index count = std::min<Index>(TILE, to - n);
        const int8_t* tile = w + n * x.stride;
        if (count < TILE) {
            std::memcpy(tail.data(), tile, count * x.stride);
            tile = tail.data();
        }
        multiply(tile, x, rows, avx2, n, count, result);
    }
}

}  // namespace modelmill::sparse
