// Products of a few rows with AVX512-VNNI, from the codes as they lie in memory. Included inside a namespace: see sets.hpp.

// Phases take turns at two sums, so that a product need not wait for the one before.
template <int BITS, int... I>
__attribute__((noinline)) void stream_bits(Each<I...>, const Mode& mode, const uint8_t* at, const uint8_t* const* rows,
                                           int64_t first, int64_t blocks, int32_t* sums) {
    constexpr int PHASES = 8 / BITS;
    const uint8_t* const own[] = {rows[I] + first * PHASES * 4 ...};
    const V512 table = table_of(mode);
    V512 even[sizeof...(I)], odd[sizeof...(I)];
    ((even[I] = odd[I] = _mm512_setzero_si512()), ...);
    int64_t x = 0;
    for (int64_t block = 0; block < blocks; ++block, at += STEP_BYTES) {
        const V512 bytes = load(at);
        _mm_prefetch(reinterpret_cast<const char*>(at + PREFETCH), _MM_HINT_T0);
#pragma GCC unroll 4
        for (int phase = 0; phase < PHASES; phase += 2, x += 4) {
            const V512 codes = codes_at<BITS>(bytes, phase, mode.mapped, table);
            (add_products(even[I], codes, four_bytes(own[I] + x)), ...);
            if constexpr (PHASES > 1) {
                x += 4;
                const V512 next = codes_at<BITS>(bytes, phase + 1, mode.mapped, table);
                (add_products(odd[I], next, four_bytes(own[I] + x)), ...);
            }
        }
    }
    (add_to(sums + I * TILE, _mm512_add_epi32(even[I], odd[I])), ...);
}

// The same without shifts, for codes that are their levels: each phase has its own sum, 2 ** (phase * BITS) times too large
// (with 65,536 inputs at most, 4 bits: 2 ** 15 products of 240 and 127, below 2 ** 31). Two of each, for blocks in turn.
template <int BITS, int... I>
__attribute__((noinline)) void stream_masked(Each<I...>, const uint8_t* at, const uint8_t* const* rows, int64_t first,
                                             int64_t blocks, int32_t* sums) {
    constexpr int PHASES = 8 / BITS, COUNT = sizeof...(I), TURNS = PHASES * COUNT <= 8 ? 2 : 1, SUMS = PHASES * COUNT;
    const uint8_t* const own[] = {rows[I] + first * PHASES * 4 ...};
    const auto each = [&]<int... P, int... S>(Each<P...>, Each<S...>) __attribute__((always_inline)) {
        const V512 mask[] = {_mm512_set1_epi8(static_cast<char>(((1 << BITS) - 1) << P * BITS))...};
        V512 sum[TURNS * SUMS];
        ((sum[S] = _mm512_setzero_si512()), ...);
        const auto add = [&]<int TURN, int PHASE>(Each<TURN, PHASE>, V512 bytes, int64_t x) __attribute__((always_inline)) {
            const V512 codes = _mm512_and_si512(bytes, mask[PHASE]);
            (add_products(sum[TURN * SUMS + I * PHASES + PHASE], codes, four_bytes(own[I] + x + 4 * PHASE)), ...);
        };
        const auto take = [&]<int TURN>(Each<TURN>, int64_t block) __attribute__((always_inline)) {
            const uint8_t* own_bytes = at + block * STEP_BYTES;
            const V512 bytes = load(own_bytes);
            _mm_prefetch(reinterpret_cast<const char*>(own_bytes + PREFETCH), _MM_HINT_T0);
            (add(Each<TURN, P>(), bytes, block * PHASES * 4), ...);
        };
        int64_t block = 0;
        for (; block + TURNS <= blocks; block += TURNS) {
            take(Each<0>(), block);
            if constexpr (TURNS == 2) take(Each<1>(), block + 1);
        }
        if (block < blocks) take(Each<0>(), block);
        (add_shifted(sums + S % SUMS / PHASES * TILE, sum[S], S % PHASES * BITS), ...);
    };
    each(First<PHASES>(), First<TURNS * SUMS>());
}

template <int COUNT>
inline void stream_rows(int bits, const Mode& mode, const uint8_t* tile, const uint8_t* const* rows, int64_t first,
                        int64_t blocks, int32_t* sums) {
    const uint8_t* at = tile + first * STEP_BYTES;
    if (bits == 8) return stream_bits<8>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    if constexpr (COUNT <= 2) {  // registers
        if (!mode.mapped) {
            if (bits == 4) return stream_masked<4>(First<COUNT>(), at, rows, first, blocks, sums);
            if (bits == 2) return stream_masked<2>(First<COUNT>(), at, rows, first, blocks, sums);
            return stream_masked<1>(First<COUNT>(), at, rows, first, blocks, sums);
        }
    }
    if (bits == 4) return stream_bits<4>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    if (bits == 2) return stream_bits<2>(First<COUNT>(), mode, at, rows, first, blocks, sums);
    stream_bits<1>(First<COUNT>(), mode, at, rows, first, blocks, sums);
}
