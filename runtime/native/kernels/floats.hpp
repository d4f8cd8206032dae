// What encoders compute besides products with weights, in float32: GELU and attention. AVX2, or nothing: see floats.py.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "work.hpp"

namespace modelmill::kernels {

// Strides count values. A mask has a byte (0: not looked at) or a float (added to the score) for each key, or nothing.
struct Attention {
    const float *q, *k, *v;
    float* out;
    const uint8_t* seen;
    const float* added;
    int64_t batch, heads, queries, keys, width;
    int64_t q_strides[3], k_strides[3], v_strides[3], out_strides[3], mask_strides[3];  // of sample, head, row
    float scale;
};

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace floats {

constexpr int LANES = 8, ROWS = 4;  // queries at a time

// e ** x up to rounding; 0 (about 1e-38) below -87. NaN stays.
inline __m256 exponential(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-87.33654F), _mm256_min_ps(_mm256_set1_ps(88.37626F), x));
    const __m256 whole =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504F)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // ln 2 in two parts: the first has few bits, so its product is exact.
    __m256 rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375F), x);
    rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.12194440e-4F), rest);
    // Taylor's series: |rest| <= ln 2 / 2, what is left out is below 1e-8.
    __m256 sum = _mm256_set1_ps(1.0F / 5040);
    for (const float term : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F})
        sum = _mm256_fmadd_ps(sum, rest, _mm256_set1_ps(term));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(sum, _mm256_castsi256_ps(power));
}

// x * Phi(x), with Abramowitz and Stegun 7.1.26 for the normal distribution's tail: off by at most 1.5e-7 * |x| / 2.
inline __m256 gelu_exactly(__m256 x) {
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x);
    const __m256 z = _mm256_mul_ps(size, _mm256_set1_ps(0.70710678F));
    const __m256 t = _mm256_div_ps(_mm256_set1_ps(1), _mm256_fmadd_ps(z, _mm256_set1_ps(0.3275911F), _mm256_set1_ps(1)));
    __m256 tail = _mm256_set1_ps(1.061405429F);
    for (const float term : {-1.453152027F, 1.421413741F, -0.284496736F, 0.254829592F})
        tail = _mm256_fmadd_ps(tail, t, _mm256_set1_ps(term));
    tail = _mm256_mul_ps(_mm256_mul_ps(tail, t), _mm256_set1_ps(0.5F));
    tail = _mm256_mul_ps(tail, exponential(_mm256_fnmadd_ps(z, z, _mm256_setzero_ps())));
    // From 30 on the tail is 0: so is its product with infinity, then.
    const __m256 lost = _mm256_mul_ps(_mm256_min_ps(_mm256_set1_ps(30), size), tail);
    return _mm256_sub_ps(_mm256_max_ps(_mm256_setzero_ps(), x), lost);
}

// x / (1 + e ** (-2 u)), u = sqrt(2 / pi) * (x + 0.044715 x ** 3): GELU's approximation by tanh.
inline __m256 gelu_by_tanh(__m256 x) {
    const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
    const __m256 u = _mm256_fmadd_ps(cube, _mm256_set1_ps(0.044715F), x);
    const __m256 power = exponential(_mm256_mul_ps(u, _mm256_set1_ps(-1.59576912F)));
    return _mm256_div_ps(x, _mm256_add_ps(power, _mm256_set1_ps(1)));
}

template <__m256 (*FUNCTION)(__m256)>
inline void map(const float* x, float* y, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) _mm256_storeu_ps(y + i, FUNCTION(_mm256_loadu_ps(x + i)));
    if (i == count) return;
    float last[LANES] = {};
    std::copy(x + i, x + count, last);
    _mm256_storeu_ps(last, FUNCTION(_mm256_loadu_ps(last)));
    std::copy(last, last + (count - i), y + i);
}

inline void gelu(const float* x, float* y, int64_t count, bool by_tanh, int threads) {
    const int parts = threads_for(count * 32, threads);
    in_parts(parts, [&](int part) {
        const int64_t from = count * part / parts, size = count * (part + 1) / parts - from;
        by_tanh ? map<gelu_by_tanh>(x + from, y + from, size) : map<gelu_exactly>(x + from, y + from, size);
    });
}

inline float largest(__m256 x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline float total(__m256 x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

// 8 x 8 values, rows `from_stride` and `to_stride` apart.
inline void transpose8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    __m256 a[LANES], b[LANES];
    for (int i = 0; i < LANES; ++i) a[i] = _mm256_loadu_ps(from + i * from_stride);
    for (int i = 0; i < LANES; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    for (int i = 0; i < LANES; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44), a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44), a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

// out[i][0..8*VECTORS) = sum over n of x[i][n] * y[n][..]: x's rows `x_stride` apart, y's `y_stride`.
template <int COUNT, int VECTORS>
inline void product(const float* x, int64_t x_stride, const float* y, int64_t y_stride, int64_t terms,
                    __m256 (&sums)[COUNT][VECTORS]) {
    for (auto& row : sums)
        for (__m256& sum : row) sum = _mm256_setzero_ps();
    for (int64_t n = 0; n < terms; ++n, y += y_stride) {
        __m256 values[VECTORS];
        for (int j = 0; j < VECTORS; ++j) values[j] = _mm256_loadu_ps(y + j * LANES);
        for (int i = 0; i < COUNT; ++i) {
            const __m256 one = _mm256_broadcast_ss(x + i * x_stride + n);
            for (int j = 0; j < VECTORS; ++j) sums[i][j] = _mm256_fmadd_ps(one, values[j], sums[i][j]);
        }
    }
}

// One head of one sample. Memory: keys turned [width][padded], scores [ROWS][padded], mask [padded].
class Head {
public:
    Head(const Attention& all, int64_t sample, int64_t head, float* memory)
        : all_(all),
          padded_(padded(all.keys)),
          turned_(memory),
          scores_(turned_ + all.width * padded_),
          mask_(scores_ + ROWS * padded_) {
        const auto at = [&](const int64_t (&strides)[3]) { return sample * strides[0] + head * strides[1]; };
        q_ = all.q + at(all.q_strides), k_ = all.k + at(all.k_strides), v_ = all.v + at(all.v_strides);
        out_ = all.out + at(all.out_strides), mask_at_ = at(all.mask_strides);
    }
    static int64_t padded(int64_t keys) { return (keys + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); }
    static int64_t memory(const Attention& all) { return (all.width + ROWS + 1) * padded(all.keys); }

    void run() {
        turn_keys();
        for (int64_t row = 0; row < all_.queries; row += ROWS) switch (std::min<int64_t>(ROWS, all_.queries - row)) {
                case 1:
                    rows<1>(row);
                    break;
                case 2:
                    rows<2>(row);
                    break;
                case 3:
                    rows<3>(row);
                    break;
                default:
                    rows<ROWS>(row);
            }
    }

private:
    void turn_keys() {
        const int64_t stride = all_.k_strides[2];
        int64_t key = 0;
        for (; key + LANES <= all_.keys; key += LANES)
            for (int64_t d = 0; d < all_.width; d += LANES)
                transpose8(k_ + key * stride + d, stride, turned_ + d * padded_ + key, padded_);
        for (int64_t d = 0; d < all_.width; ++d)
            for (int64_t left = key; left < padded_; ++left)
                turned_[d * padded_ + left] = left < all_.keys ? k_[left * stride + d] : 0;
    }

    // What is added to a row's scores: minus infinity where a key is not looked at, or is none.
    void read_mask(int64_t row) {
        const int64_t at = mask_at_ + row * all_.mask_strides[2];
        constexpr float NOT = -std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < all_.keys; ++i)
            mask_[i] = all_.seen ? (all_.seen[at + i] ? 0 : NOT) : all_.added ? all_.added[at + i] : 0;
        for (int64_t i = all_.keys; i < padded_; ++i) mask_[i] = NOT;
    }

    template <int COUNT>
    void rows(int64_t row) {
        const float* q = q_ + row * all_.q_strides[2];
        const __m256 scale = _mm256_set1_ps(all_.scale);
        for (int64_t key = 0; key < padded_; key += 2 * LANES) {
            __m256 sums[COUNT][2];
            product<COUNT, 2>(q, all_.q_strides[2], turned_ + key, padded_, all_.width, sums);
            for (int i = 0; i < COUNT; ++i)
                for (int j = 0; j < 2; ++j)
                    _mm256_storeu_ps(scores_ + i * padded_ + key + j * LANES, _mm256_mul_ps(sums[i][j], scale));
        }
        float parts[COUNT];
        for (int i = 0; i < COUNT; ++i) {
            if (i + row == 0 || all_.mask_strides[2] != 0) read_mask(row + i);
            parts[i] = soften(scores_ + i * padded_);
        }
        int64_t d = 0;
        for (; d + 2 * LANES <= all_.width; d += 2 * LANES) mix<COUNT, 2>(row, d, parts);
        for (; d < all_.width; d += LANES) mix<COUNT, 1>(row, d, parts);
    }

    // Scores become powers of e; what they have to be divided by. Where nothing is looked at, nothing is mixed.
    float soften(float* scores) const {
        __m256 most = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
        for (int64_t i = 0; i < padded_; i += LANES) {
            const __m256 one = _mm256_add_ps(_mm256_loadu_ps(scores + i), _mm256_loadu_ps(mask_ + i));
            _mm256_storeu_ps(scores + i, one);
            most = _mm256_max_ps(one, most);
        }
        const float top = largest(most);
        if (top == -std::numeric_limits<float>::infinity()) {
            std::fill(scores, scores + padded_, 0.0F);
            return 0;
        }
        __m256 sum = _mm256_setzero_ps();
        for (int64_t i = 0; i < padded_; i += LANES) {
            const __m256 one = _mm256_loadu_ps(scores + i);
            // The smallest power is not 0: a key that is masked must not count.
            const __m256 there = _mm256_cmp_ps(one, _mm256_set1_ps(-std::numeric_limits<float>::infinity()), _CMP_NEQ_UQ);
            const __m256 power = _mm256_and_ps(there, exponential(_mm256_sub_ps(one, _mm256_set1_ps(top))));
            _mm256_storeu_ps(scores + i, power);
            sum = _mm256_add_ps(sum, power);
        }
        return 1 / total(sum);
    }

    template <int COUNT, int VECTORS>
    void mix(int64_t row, int64_t d, const float (&parts)[COUNT]) {
        __m256 sums[COUNT][VECTORS];
        product<COUNT, VECTORS>(scores_, padded_, v_ + d, all_.v_strides[2], all_.keys, sums);
        for (int i = 0; i < COUNT; ++i)
            for (int j = 0; j < VECTORS; ++j)
                _mm256_storeu_ps(out_ + (row + i) * all_.out_strides[2] + d + j * LANES,
                                 _mm256_mul_ps(sums[i][j], _mm256_set1_ps(parts[i])));
    }

    const Attention& all_;
    int64_t padded_;
    float *turned_, *scores_, *mask_;
    const float *q_, *k_, *v_;
    float* out_;
    int64_t mask_at_;
};

// Throws std::bad_alloc.
inline void attend(const Attention& all, int threads) {
    const int64_t heads = all.batch * all.heads;
    const auto parts =
        static_cast<int>(std::min<int64_t>(heads, threads_for(2 * heads * all.queries * all.keys * all.width, threads)));
    in_parts(parts, [&](int part) {
        Scratch& scratch = Scratch::own();
        const auto needed = static_cast<size_t>(Head::memory(all));
        scratch.reserve(needed * sizeof(float));
        auto* memory = scratch.take<float>(needed);
        for (int64_t i = heads * part / parts; i < heads * (part + 1) / parts; ++i)
            Head(all, i / all.heads, i % all.heads, memory).run();
    });
}

}  // namespace floats
#pragma GCC pop_options

}  // namespace modelmill::kernels
