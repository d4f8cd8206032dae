// Blocks of 16 rows with AVX512-VNNI: a quad is one register, its four activations are one operand. See blocks.hpp.
#pragma once

#include "blocks.hpp"

#define MODELMILL_VNNI __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vnni")))

namespace modelmill::sparse {

// sum += the products of 4 unsigned and 4 signed bytes. Not the intrinsic: GCC 12 copies its sum at every step.
MODELMILL_VNNI __attribute__((always_inline)) inline void add_products(__m512i& sum, __m512i unsigned_bytes, __m512i bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(bytes));
}

// Where a quad's inputs are, 16 bits each, cut to the last one. Indexes of 32 bits take the other set.
struct Cut {
    uint64_t four;
    uint32_t at(int j) const { return static_cast<uint16_t>(four >> 16 * j); }
};

// What the rows of activations have at a quad's inputs, in every lane, with 128 added to make it unsigned.
template <bool IMAGE>
MODELMILL_VNNI __attribute__((always_inline)) inline __m512i unsigned_four(const uint8_t* x, const uint32_t* offsets, Cut cut) {
    const auto one = [&](int j) { return static_cast<uint32_t>(x[IMAGE ? offsets[cut.at(j)] : cut.at(j)]); };
    const uint32_t four = one(0) | one(1) << 8 | one(2) << 16 | one(3) << 24;
    return _mm512_set1_epi32(static_cast<int>(four ^ 0x80808080u));
}

// Sums of products with unsigned activations, less 128 times the sum of the weights: they may wrap around on their way, what is
// left in the end fits. Two quads take turns, so that a product need not wait for the one before.
template <int M, bool IMAGE>
MODELMILL_VNNI void integers16_vnni(const Blocks& w, const Picks<IMAGE>& x, Index block, Index m) {
    const __m512i middle = _mm512_set1_epi8(-128);
    const __m128i last = _mm_set1_epi16(static_cast<short>(std::min<Index>(w.inputs - 1, 0xffff)));
    const uint32_t* offsets = x.offsets;
    const uint8_t* rows[M];
    __m512i even[M], odd[M], less = _mm512_setzero_si512();
    for (int r = 0; r < M; ++r) {
        rows[r] = reinterpret_cast<const uint8_t*>(x.row(m + r));
        even[r] = odd[r] = _mm512_setzero_si512();
    }
    Index left = w.starts[block + 1] - w.starts[block];
    const int8_t* values = w.quad<int8_t>(w.starts[block], 16);
    const auto* index = static_cast<const uint16_t*>(w.index) + 4 * static_cast<Index>(w.starts[block]);
    for (; left > 1; left -= 2, values += 128, index += 8) {
        _mm_prefetch(values + AHEAD, _MM_HINT_T0);
        _mm_prefetch(values + AHEAD + 64, _MM_HINT_T0);
        _mm_prefetch(index + AHEAD / 8, _MM_HINT_T0);
        const __m128i cut = _mm_min_epu16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index)), last);
        const Cut first{static_cast<uint64_t>(_mm_cvtsi128_si64(cut))}, second{static_cast<uint64_t>(_mm_extract_epi64(cut, 1))};
        const __m512i quad = _mm512_loadu_si512(values), next = _mm512_loadu_si512(values + 64);
        add_products(less, middle, quad);
        add_products(less, middle, next);
        for (int r = 0; r < M; ++r) {
            add_products(even[r], unsigned_four<IMAGE>(rows[r], offsets, first), quad);
            add_products(odd[r], unsigned_four<IMAGE>(rows[r], offsets, second), next);
        }
    }
    if (left) {
        const __m128i cut = _mm_min_epu16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(index)), last);
        const Cut only{static_cast<uint64_t>(_mm_cvtsi128_si64(cut))};
        const __m512i quad = _mm512_loadu_si512(values);
        add_products(less, middle, quad);
        for (int r = 0; r < M; ++r) add_products(even[r], unsigned_four<IMAGE>(rows[r], offsets, only), quad);
    }
    for (int r = 0; r < M; ++r) {
        alignas(64) int32_t sums[16];
        _mm512_store_si512(sums, _mm512_sub_epi32(_mm512_add_epi32(even[r], odd[r]), less));
        store<16>(w, block, m + r, x.scales[m + r], sums);
    }
}

// Row blocks [from, to) with every row of activations, on the best set up to `level`.
template <bool IMAGE>
void integers(const Blocks& w, const Picks<IMAGE>& x, Index rows, int height, int level, Index from, Index to) {
    if (level < VNNI || height != 16 || w.wide) return integers_avx2(w, x, rows, height, level >= AVX2, from, to);
    for (Index block = from; block < to; ++block) {
        Index m = 0;
        for (; m + 4 <= rows; m += 4) integers16_vnni<4>(w, x, block, m);
        for (; m < rows; ++m) integers16_vnni<1>(w, x, block, m);
    }
}

}  // namespace modelmill::sparse
