// Products with blocks of 16 or 4 rows x 1 input: modelmill/kernels/blocks.py has the layout.
//
// Weights stream, activations are picked by index: a block of rows is walked once for up to four rows of activations.
// An index is cut to the last input before it is used, so that no file can make this read outside.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "rows.hpp"

namespace modelmill::sparse {

constexpr int AHEAD = 4096;  // bytes

struct Blocks {
    const void* values;
    const void* index;
    bool wide;  // index of 4 bytes, else of 2
    const int32_t* starts;
    Index outputs, inputs;
    const float* scale;
    const float* bias;
    float* out;

    template <typename Value>
    const Value* quad(Index q, int height) const {
        return static_cast<const Value*>(values) + q * 4 * height;
    }
    // Where the four inputs of a quad are.
    __attribute__((always_inline)) void inputs_of(Index q, uint32_t (&at)[4]) const {
        const uint32_t last = static_cast<uint32_t>(inputs - 1);
        if (wide) {
            std::memcpy(at, static_cast<const uint32_t*>(index) + 4 * q, 16);
            for (uint32_t& k : at) k = std::min(k, last);
        } else {
            uint64_t four;
            std::memcpy(&four, static_cast<const uint16_t*>(index) + 4 * q, 8);
            for (int j = 0; j < 4; ++j) at[j] = std::min(static_cast<uint32_t>(four >> 16 * j & 0xffff), last);
        }
    }
};

// Rows of int8 activations: where each begins, and in an IMAGE where its inputs are from there (else one behind the other).
template <bool IMAGE>
struct Picks {
    const int8_t* values;
    const Index* rows;
    const float* scales;
    const uint32_t* offsets;

    const int8_t* row(Index m) const { return values + rows[m]; }
    __attribute__((always_inline)) void place(uint32_t (&at)[4]) const {
        if constexpr (IMAGE)
            for (uint32_t& k : at) k = offsets[k];
    }
};

template <int HEIGHT>
void store(const Blocks& w, Index block, Index m, float row_scale, const int32_t* sums) {
    const Index first = block * HEIGHT, rows = std::min<Index>(HEIGHT, w.outputs - first);
    for (Index i = 0; i < rows; ++i)
        w.out[m * w.outputs + first + i] = scaled(sums[i], w.scale[first + i], row_scale, w.bias, first + i);
}

template <int HEIGHT>
void store(const Blocks& w, Index block, Index m, const float* sums) {
    const Index first = block * HEIGHT, rows = std::min<Index>(HEIGHT, w.outputs - first);
    for (Index i = 0; i < rows; ++i) w.out[m * w.outputs + first + i] = w.bias ? sums[i] + w.bias[first + i] : sums[i];
}

template <int HEIGHT, bool IMAGE>
void integers_portable(const Blocks& w, const Picks<IMAGE>& x, Index block, Index m) {
    int32_t sums[HEIGHT] = {};
    for (Index q = w.starts[block]; q < w.starts[block + 1]; ++q) {
        const int8_t* values = w.quad<int8_t>(q, HEIGHT);
        uint32_t at[4];
        w.inputs_of(q, at);
        x.place(at);
        for (int j = 0; j < 4; ++j)
            for (int i = 0; i < HEIGHT; ++i) sums[i] += values[4 * i + j] * x.row(m)[at[j]];
    }
    store<HEIGHT>(w, block, m, x.scales[m], sums);
}

// Two running sums for 4 rows (even and odd inputs of a quad, what one register holds), one for 16; always in this order.
template <int HEIGHT>
void floats_portable(const Blocks& w, const float* x, Index block, Index m) {
    float sums[2][HEIGHT] = {};
    for (Index q = w.starts[block]; q < w.starts[block + 1]; ++q) {
        const float* values = w.quad<float>(q, HEIGHT);
        uint32_t at[4];
        w.inputs_of(q, at);
        for (int j = 0; j < 4; ++j) {
            float* sum = sums[HEIGHT == 4 ? j % 2 : 0];
            for (int i = 0; i < HEIGHT; ++i) sum[i] = std::fmaf(values[HEIGHT * j + i], x[m * w.inputs + at[j]], sum[i]);
        }
    }
    if constexpr (HEIGHT == 4)
        for (int i = 0; i < HEIGHT; ++i) sums[0][i] += sums[1][i];
    store<HEIGHT>(w, block, m, sums[0]);
}

// The four picked bytes, then zeros.
MODELMILL_AVX2 __attribute__((always_inline)) inline __m128i picked(const int8_t* x, const uint32_t (&at)[4]) {
    __m128i four = _mm_insert_epi8(_mm_setzero_si128(), x[at[0]], 0);
    four = _mm_insert_epi8(four, x[at[1]], 1);
    four = _mm_insert_epi8(four, x[at[2]], 2);
    return _mm_insert_epi8(four, x[at[3]], 3);
}

// As Blocks::inputs_of, for one quad or two; and asks for what comes a page later, since the processor's own guesses stop
// at a page's end.
template <int QUADS>
MODELMILL_AVX2 __attribute__((always_inline)) inline void inputs_avx2(const Blocks& w, Index q, const void* values,
                                                                      uint32_t (&at)[QUADS][4]) {
    _mm_prefetch(static_cast<const char*>(values) + AHEAD, _MM_HINT_T0);
    if (w.wide) {
        for (int i = 0; i < QUADS; ++i) w.inputs_of(q + i, at[i]);
        return;
    }
    const auto* index = static_cast<const uint16_t*>(w.index) + 4 * q;
    _mm_prefetch(index + AHEAD / 8, _MM_HINT_T0);
    const auto* packed = reinterpret_cast<const __m128i*>(index);
    const __m128i last = _mm_set1_epi16(static_cast<short>(std::min<Index>(w.inputs - 1, 0xffff)));
    const __m128i cut = _mm_min_epu16(QUADS == 2 ? _mm_loadu_si128(packed) : _mm_loadl_epi64(packed), last);
    for (int i = 0; i < QUADS; ++i) {
        const auto four = static_cast<uint64_t>(i ? _mm_extract_epi64(cut, 1) : _mm_cvtsi128_si64(cut));
        for (int j = 0; j < 4; ++j) at[i][j] = four >> 16 * j & 0xffff;
    }
}

// Sums of four neighbours' products, exact: |x| and w * sign(x) are at most 127, and 2 * 127 * 127 < 2^15.
MODELMILL_AVX2 inline __m256i products(__m256i sum, __m256i w, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <int M, bool IMAGE>
MODELMILL_AVX2 void integers16_avx2(const Blocks& w, const Picks<IMAGE>& x, Index block, Index m) {
    __m256i low[M], high[M];
    for (int r = 0; r < M; ++r) low[r] = high[r] = _mm256_setzero_si256();
    for (Index q = w.starts[block]; q < w.starts[block + 1]; ++q) {
        const auto* values = reinterpret_cast<const __m256i*>(w.quad<int8_t>(q, 16));
        const __m256i first = _mm256_loadu_si256(values), second = _mm256_loadu_si256(values + 1);
        uint32_t at[1][4];
        inputs_avx2(w, q, values, at);
        x.place(at[0]);
        for (int r = 0; r < M; ++r) {
            const __m256i four = _mm256_broadcastd_epi32(picked(x.row(m + r), at[0]));
            low[r] = products(low[r], first, four);
            high[r] = products(high[r], second, four);
        }
    }
    for (int r = 0; r < M; ++r) {
        alignas(32) int32_t sums[16];
        _mm256_store_si256(reinterpret_cast<__m256i*>(sums), low[r]);
        _mm256_store_si256(reinterpret_cast<__m256i*>(sums + 8), high[r]);
        store<16>(w, block, m + r, x.scales[m + r], sums);
    }
}

// Two quads of 4 rows share a register; a last one alone leaves the other half zero.
template <int M, bool IMAGE>
MODELMILL_AVX2 void integers4_avx2(const Blocks& w, const Picks<IMAGE>& x, Index block, Index m) {
    __m256i sum[M];
    for (int r = 0; r < M; ++r) sum[r] = _mm256_setzero_si256();
    const Index end = w.starts[block + 1];
    Index q = w.starts[block];
    for (; q + 2 <= end; q += 2) {
        const int8_t* values = w.quad<int8_t>(q, 4);
        const __m256i pair = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
        uint32_t at[2][4];
        inputs_avx2(w, q, values, at);
        x.place(at[0]);
        x.place(at[1]);
        for (int r = 0; r < M; ++r) {
            const int8_t* row = x.row(m + r);
            const __m256i picks =
                _mm256_set_m128i(_mm_broadcastd_epi32(picked(row, at[1])), _mm_broadcastd_epi32(picked(row, at[0])));
            sum[r] = products(sum[r], pair, picks);
        }
    }
    if (q < end) {
        const auto* values = reinterpret_cast<const __m128i*>(w.quad<int8_t>(q, 4));
        const __m256i single = _mm256_zextsi128_si256(_mm_loadu_si128(values));
        uint32_t at[4];
        w.inputs_of(q, at);
        x.place(at);
        for (int r = 0; r < M; ++r) sum[r] = products(sum[r], single, _mm256_broadcastd_epi32(picked(x.row(m + r), at)));
    }
    for (int r = 0; r < M; ++r) {
        alignas(16) int32_t sums[4];
        _mm_store_si128(reinterpret_cast<__m128i*>(sums),
                        _mm_add_epi32(_mm256_castsi256_si128(sum[r]), _mm256_extracti128_si256(sum[r], 1)));
        store<4>(w, block, m + r, x.scales[m + r], sums);
    }
}

template <int M>
MODELMILL_AVX2 void floats16_avx2(const Blocks& w, const float* x, Index block, Index m) {
    __m256 low[M], high[M];
    for (int r = 0; r < M; ++r) low[r] = high[r] = _mm256_setzero_ps();
    for (Index q = w.starts[block]; q < w.starts[block + 1]; ++q) {
        const float* values = w.quad<float>(q, 16);
        uint32_t at[1][4];
        inputs_avx2(w, q, values, at);
        for (int j = 0; j < 4; ++j) {
            const __m256 first = _mm256_loadu_ps(values + 16 * j), second = _mm256_loadu_ps(values + 16 * j + 8);
            for (int r = 0; r < M; ++r) {
                const __m256 one = _mm256_broadcast_ss(x + (m + r) * w.inputs + at[0][j]);
                low[r] = _mm256_fmadd_ps(first, one, low[r]);
                high[r] = _mm256_fmadd_ps(second, one, high[r]);
            }
        }
    }
    for (int r = 0; r < M; ++r) {
        alignas(32) float sums[16];
        _mm256_store_ps(sums, low[r]);
        _mm256_store_ps(sums + 8, high[r]);
        store<16>(w, block, m + r, sums);
    }
}

template <int M>
MODELMILL_AVX2 void floats4_avx2(const Blocks& w, const float* x, Index block, Index m) {
    __m256 sum[M];
    for (int r = 0; r < M; ++r) sum[r] = _mm256_setzero_ps();
    for (Index q = w.starts[block]; q < w.starts[block + 1]; ++q) {
        const float* values = w.quad<float>(q, 4);
        uint32_t at[1][4];
        inputs_avx2(w, q, values, at);
        for (int j = 0; j < 4; j += 2) {
            const __m256 pair = _mm256_loadu_ps(values + 4 * j);
            for (int r = 0; r < M; ++r) {
                const float* row = x + (m + r) * w.inputs;
                const __m256 two = _mm256_set_m128(_mm_broadcast_ss(row + at[0][j + 1]), _mm_broadcast_ss(row + at[0][j]));
                sum[r] = _mm256_fmadd_ps(pair, two, sum[r]);
            }
        }
    }
    for (int r = 0; r < M; ++r) {
        alignas(16) float sums[4];
        _mm_store_ps(sums, _mm_add_ps(_mm256_castps256_ps128(sum[r]), _mm256_extractf128_ps(sum[r], 1)));
        store<4>(w, block, m + r, sums);
    }
}

// Row blocks [from, to) with every row of activations.
template <bool IMAGE>
void integers_avx2(const Blocks& w, const Picks<IMAGE>& x, Index rows, int height, bool avx2, Index from, Index to) {
    for (Index block = from; block < to; ++block) {
        Index m = 0;
        if (avx2) {
            const auto four = height == 16 ? integers16_avx2<4, IMAGE> : integers4_avx2<4, IMAGE>;
            const auto one = height == 16 ? integers16_avx2<1, IMAGE> : integers4_avx2<1, IMAGE>;
            for (; m + 4 <= rows; m += 4) four(w, x, block, m);
            for (; m < rows; ++m) one(w, x, block, m);
        }
        for (; m < rows; ++m) (height == 16 ? integers_portable<16, IMAGE> : integers_portable<4, IMAGE>)(w, x, block, m);
    }
}

inline void floats(const Blocks& w, const float* x, Index rows, int height, bool avx2, Index from, Index to) {
    for (Index block = from; block < to; ++block) {
        Index m = 0;
        if (avx2) {
            const auto four = height == 16 ? floats16_avx2<4> : floats4_avx2<4>;
            const auto one = height == 16 ? floats16_avx2<1> : floats4_avx2<1>;
            for (; m + 4 <= rows; m += 4) four(w, x, block, m);
            for (; m < rows; ++m) one(w, x, block, m);
        }
        for (; m < rows; ++m) (height == 16 ? floats_portable<16> : floats_portable<4>)(w, x, block, m);
    }
}

// Row blocks [from, to) as dense float rows, from the first of them on.
template <typename Value>
void decode(const Blocks& w, int height, Index from, Index to) {
    for (Index block = from; block < to; ++block) {
        const Index first = block * height, rows = std::min<Index>(height, w.outputs - first);
        float* out = w.out + (first - from * height) * w.inputs;
        std::fill(out, out + rows * w.inputs, 0.0f);
        for (Index q = w.starts[block]; q < w.starts[block + 1]; ++q) {
            const Value* values = w.quad<Value>(q, height);
            uint32_t at[4];
            w.inputs_of(q, at);
            for (int j = 0; j < 4; ++j)
                for (Index i = 0; i < rows; ++i) {
                    const Value value = std::is_same_v<Value, float> ? values[height * j + i] : values[4 * i + j];
                    // Padding stands at input 0 and must not wipe it out.
                    if (value != 0) out[i * w.inputs + at[j]] = static_cast<float>(value) * (w.scale ? w.scale[first + i] : 1.0f);
                }
        }
    }
}

}  // namespace modelmill::sparse
