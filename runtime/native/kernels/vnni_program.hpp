// Products of programs with AVX512-VNNI: a step of 16 outputs is one register, and vpdpbusd needs no runs. Included inside a
// namespace: see sets.hpp.

constexpr int GROUP = 12, HALF_GROUP = 12;

template <int COUNT>
__attribute__((noinline)) void whole_product(const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets, Runs,
                                             int64_t steps, int32_t* sums) {
    const auto product = [&]<int... I>(Each<I...>) __attribute__((always_inline)) {
        const uint8_t* const own[] = {rows[I]...};
        V512 sum[COUNT];
        ((sum[I] = _mm512_setzero_si512()), ...);
        for (int64_t step = 0; step < steps; ++step, panel += STEP_BYTES) {
            const V512 weights = load(panel);
            const int64_t offset = offsets[step];
            (add_products(sum[I], four_bytes(own[I] + offset), weights), ...);
        }
        (_mm512_storeu_si512(sums + I * TILE, sum[I]), ...);
    };
    product(First<COUNT>());
}

template <int COUNT>
__attribute__((noinline)) void float_product(const float* panel, const uint8_t* const* rows, const int32_t* offsets,
                                             int64_t steps, float* sums) {
    const auto product = [&]<int... I>(Each<I...>) __attribute__((always_inline)) {
        const uint8_t* const own[] = {rows[I]...};
        V512F sum[COUNT];
        ((sum[I] = _mm512_setzero_ps()), ...);
        for (int64_t step = 0; step < steps; ++step, panel += TILE) {
            const V512F weights = _mm512_loadu_ps(panel);
            const int64_t offset = offsets[step];
            const auto add = [&](V512F& into, const uint8_t* x) {
                float value;
                std::memcpy(&value, x, sizeof value);
                into = _mm512_fmadd_ps(_mm512_set1_ps(value), weights, into);
            };
            (add(sum[I], own[I] + offset), ...);
        }
        (_mm512_storeu_ps(sums + I * TILE, sum[I]), ...);
    };
    product(First<COUNT>());
}

constexpr WholeProduct WHOLE[] = {whole_product<1>, whole_product<2>,  whole_product<3>,  whole_product<4>,
                                  whole_product<5>, whole_product<6>,  whole_product<7>,  whole_product<8>,
                                  whole_product<9>, whole_product<10>, whole_product<11>, whole_product<12>};
constexpr FloatProduct FLOAT[] = {float_product<1>, float_product<2>,  float_product<3>,  float_product<4>,
                                  float_product<5>, float_product<6>,  float_product<7>,  float_product<8>,
                                  float_product<9>, float_product<10>, float_product<11>, float_product<12>};
constexpr auto& HALF_WHOLE = WHOLE;
constexpr auto& HALF_FLOAT = FLOAT;
