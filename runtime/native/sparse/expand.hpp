// Rows of a sparse weight written out: 2 of 4, or a bit for each input. modelmill/kernels/sparse.py has the layouts.
//
// A byte of positions or of the mask says where the next values go among 8 inputs; a table of 256 shuffles does it at once.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstring>

#include "rows.hpp"

namespace modelmill::sparse {

constexpr uint8_t NONE = 0x80;  // pshufb writes 0 for it
using Shuffle = std::array<uint8_t, 8>;

constexpr Shuffle shuffle_of_mask(int byte) {
    Shuffle from{};
    uint8_t taken = 0;
    for (int i = 0; i < 8; ++i) from[i] = byte >> i & 1 ? taken++ : NONE;
    return from;
}
constexpr Shuffle shuffle_of_positions(int byte) {
    Shuffle from{NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE};
    for (uint8_t i = 0; i < 4; ++i) from[i / 2 * 4 + (byte >> 2 * i & 3)] = i;
    return from;
}
template <typename Of>
constexpr std::array<Shuffle, 256> table(Of of) {
    std::array<Shuffle, 256> all{};
    for (int byte = 0; byte < 256; ++byte) all[byte] = of(byte);
    return all;
}
inline constexpr auto MASKS = table(shuffle_of_mask);
inline constexpr auto POSITIONS = table(shuffle_of_positions);

struct Sparse {
    const void* values;
    const uint8_t* bits;    // positions or mask
    const int32_t* starts;  // null: 2 of 4
    Index kept;             // values in all
    Index outputs, inputs;

    Index bytes() const { return (inputs + 7) / 8; }
    Index first(Index n) const { return starts ? starts[n] : n * (inputs / 2); }
    const Shuffle& shuffle(uint8_t byte) const { return (starts ? MASKS : POSITIONS)[byte]; }
    // Values that a byte takes; a last byte of 2 of 4 has two positions, the other two take part but land behind the row.
    Index takes(uint8_t byte) const { return starts ? std::popcount(byte) : 4; }
};

// One byte, at most `room` inputs wide; reads no value behind the last one, whatever the bits say.
template <typename Value>
void expand_byte(const Sparse& w, uint8_t byte, Index cursor, Index room, Value* out) {
    const auto* values = static_cast<const Value*>(w.values);
    const Shuffle& from = w.shuffle(byte);
    for (Index i = 0; i < std::min<Index>(8, room); ++i) {
        const Index at = cursor + from[i];
        out[i] = from[i] == NONE || at >= w.kept ? Value(0) : values[at];
    }
}

template <typename Value>
void expand_portable(const Sparse& w, Index n, Value* out) {
    Index cursor = w.first(n);
    for (Index b = 0; b < w.bytes(); ++b) {
        const uint8_t byte = w.bits[n * w.bytes() + b];
        expand_byte(w, byte, cursor, w.inputs - 8 * b, out + 8 * b);
        cursor += w.takes(byte);
    }
}

MODELMILL_AVX2 inline void spread(const int8_t* values, const Shuffle& from, int8_t* out) {
    const __m128i shuffle = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from.data()));
    const __m128i all = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(all, shuffle));
}
MODELMILL_AVX2 inline void spread(const float* values, const Shuffle& from, float* out) {
    const __m256i shuffle = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from.data())));
    const __m256 moved = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), shuffle);
    _mm256_storeu_ps(out, _mm256_blendv_ps(moved, _mm256_setzero_ps(), _mm256_castsi256_ps(shuffle)));
}

// The bytes of a row in fours, as far as there are values enough to read; where it ended. Eight values are read for each, whether
// or not they are used.
template <bool MASK, typename Value>
MODELMILL_AVX2 Index spread_bytes(const Sparse& w, const uint8_t* bits, Index& cursor, Value* out) {
    const auto* values = static_cast<const Value*>(w.values);
    const Index end = w.inputs / 8;
    Index b = 0, at = cursor;
    for (; b + 4 <= end && at + 32 <= w.kept; b += 4)
        for (int i = 0; i < 4; ++i) {
            const uint8_t byte = bits[b + i];
            spread(values + at, MASK ? MASKS[byte] : POSITIONS[byte], out + 8 * (b + i));
            at += MASK ? std::popcount(byte) : 4;
        }
    cursor = at;
    return b;
}

template <typename Value>
MODELMILL_AVX2 void expand_avx2(const Sparse& w, Index n, Value* out) {
    Index cursor = w.first(n);
    const uint8_t* bits = w.bits + n * w.bytes();
    Index b = w.starts ? spread_bytes<true>(w, bits, cursor, out) : spread_bytes<false>(w, bits, cursor, out);
    for (; b < w.bytes(); ++b) {
        expand_byte(w, bits[b], cursor, w.inputs - 8 * b, out + 8 * b);
        cursor += w.takes(bits[b]);
    }
}

// Rows [from, to) as floats, `out` being where the first of them goes.
template <typename Value>
void decode(const Sparse& w, const float* scale, float* out, bool avx2, Index from, Index to) {
    std::vector<Value> row(w.inputs);
    for (Index n = from; n < to; ++n, out += w.inputs) {
        if constexpr (std::is_same_v<Value, float>) {
            (avx2 ? expand_avx2<float> : expand_portable<float>)(w, n, out);
        } else {
            (avx2 ? expand_avx2<Value> : expand_portable<Value>)(w, n, row.data());
            for (Index k = 0; k < w.inputs; ++k) out[k] = static_cast<float>(row[k]) * scale[n];
        }
    }
}

}  // namespace modelmill::sparse
