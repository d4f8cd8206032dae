// Products of programs with AVX2. Included inside a namespace: see sets.hpp.
//
// Activations are 0..127, weights -128..127: vpmaddubsw adds two products, and its 16-bit sums take in more steps as long as
// no activations could overflow them. How many depends on the weights alone, so it is found once: `runs_of`. Then vpmaddwd
// with ones widens the sums. With ResNet-56's 8 bits a run has about 3 steps.

constexpr int GROUP = 6, HALF_GROUP = 8,
              ROW = 0;  // pixels at a time: for 16 outputs, for 8, and in a row of 3 x 3 windows (0: there is no such product)

// low, high = what x makes with `first` and `second`; as assembly for `go_on`'s reason, which is add_narrow's.
__attribute__((always_inline)) inline void begin_run(__m256i& low, __m256i& high, __m256i first, __m256i second,
                                                     const uint8_t* x) {
    asm("vpbroadcastd %[x], %[high]\n\tvpmaddubsw %[first], %[high], %[low]\n\tvpmaddubsw %[second], %[high], %[high]"
        : [low] "=&x"(low), [high] "=&x"(high)
        : [first] "x"(first), [second] "x"(second), [x] "m"(*reinterpret_cast<const Four*>(x)));
}
__attribute__((always_inline)) inline void go_on(__m256i& low, __m256i& high, __m256i first, __m256i second, const uint8_t* x) {
    __m256i one, two;
    asm("vpbroadcastd %[x], %[two]\n\tvpmaddubsw %[first], %[two], %[one]\n\tvpmaddubsw %[second], %[two], %[two]\n\t"
        "vpaddw %[one], %[low], %[low]\n\tvpaddw %[two], %[high], %[high]"
        : [low] "+x"(low), [high] "+x"(high), [one] "=&x"(one), [two] "=&x"(two)
        : [first] "x"(first), [second] "x"(second), [x] "m"(*reinterpret_cast<const Four*>(x)));
}

template <int COUNT>
__attribute__((noinline)) void whole_product(const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets, Runs runs,
                                             int64_t steps, int32_t* sums) {
    const auto product = [&]<int... I>(Each<I...>) __attribute__((always_inline)) {
        const uint8_t* const own[] = {rows[I]...};
        // One by one: as a loop it becomes `rep stos`, which takes longer than a run.
        (store(sums + I * TILE, _mm256_setzero_si256()), ...);
        (store(sums + I * TILE + 8, _mm256_setzero_si256()), ...);
        const uint16_t* const last = runs.order + steps;
        for (const uint16_t* step = runs.order; step < last;) {
            const uint16_t* const end = step + *runs.lengths++;
            __m256i low[COUNT], high[COUNT];
            const uint8_t* weights = panel + *step * STEP_BYTES;
            __m256i first = load(weights), second = load(weights + 32);
            int64_t offset = offsets[*step];
            (begin_run(low[I], high[I], first, second, own[I] + offset), ...);
            while (++step < end) {
                weights = panel + *step * STEP_BYTES;
                first = load(weights), second = load(weights + 32);
                offset = offsets[*step];
                (go_on(low[I], high[I], first, second, own[I] + offset), ...);
            }
            const __m256i ones = _mm256_set1_epi16(1);
            (add_to(sums + I * TILE, _mm256_madd_epi16(low[I], ones)), ...);
            (add_to(sums + I * TILE + 8, _mm256_madd_epi16(high[I], ones)), ...);
        }
    };
    product(First<COUNT>());
}

// The tile's first 8 outputs.
template <int COUNT>
__attribute__((noinline)) void half_product(const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets, Runs runs,
                                            int64_t steps, int32_t* sums) {
    const auto product = [&]<int... I>(Each<I...>) __attribute__((always_inline)) {
        const uint8_t* const own[] = {rows[I]...};
        (store(sums + I * TILE, _mm256_setzero_si256()), ...);
        const uint16_t* const last = runs.order + steps;
        for (const uint16_t* step = runs.order; step < last;) {
            const uint16_t* const end = step + *runs.lengths++;
            __m256i sum[COUNT];
            ((sum[I] = _mm256_setzero_si256()), ...);
            for (; step < end; ++step) {
                const __m256i weights = load(panel + *step * STEP_BYTES);
                const int64_t offset = offsets[*step];
                const auto add = [&](__m256i& into, const uint8_t* x) {
                    const __m256i four = _mm256_set1_epi32(*reinterpret_cast<const Four*>(x));
                    into = _mm256_add_epi16(into, _mm256_maddubs_epi16(four, weights));
                };
                (add(sum[I], own[I] + offset), ...);
            }
            (add_to(sums + I * TILE, _mm256_madd_epi16(sum[I], _mm256_set1_epi16(1))), ...);
        }
    };
    product(First<COUNT>());
}

typedef float __attribute__((may_alias)) One;

template <int COUNT>
__attribute__((noinline)) void float_product(const float* panel, const uint8_t* const* rows, const int32_t* offsets,
                                             int64_t steps, float* sums) {
    const auto product = [&]<int... I>(Each<I...>) __attribute__((always_inline)) {
        const uint8_t* const own[] = {rows[I]...};
        __m256 low[COUNT], high[COUNT];
        ((low[I] = high[I] = _mm256_setzero_ps()), ...);
        for (int64_t step = 0; step < steps; ++step, panel += TILE) {
            const __m256 first = _mm256_loadu_ps(panel), second = _mm256_loadu_ps(panel + 8);
            const int64_t offset = offsets[step];
            const auto add = [&](__m256& one, __m256& two, const uint8_t* x) {
                const __m256 value = _mm256_broadcast_ss(reinterpret_cast<const One*>(x));
                one = _mm256_fmadd_ps(value, first, one), two = _mm256_fmadd_ps(value, second, two);
            };
            (add(low[I], high[I], own[I] + offset), ...);
        }
        (_mm256_storeu_ps(sums + I * TILE, low[I]), ...);
        (_mm256_storeu_ps(sums + I * TILE + 8, high[I]), ...);
    };
    product(First<COUNT>());
}

template <int COUNT>
__attribute__((noinline)) void half_float_product(const float* panel, const uint8_t* const* rows, const int32_t* offsets,
                                                  int64_t steps, float* sums) {
    const auto product = [&]<int... I>(Each<I...>) __attribute__((always_inline)) {
        const uint8_t* const own[] = {rows[I]...};
        __m256 sum[COUNT];
        ((sum[I] = _mm256_setzero_ps()), ...);
        for (int64_t step = 0; step < steps; ++step, panel += TILE) {
            const __m256 weights = _mm256_loadu_ps(panel);
            const int64_t offset = offsets[step];
            const auto add = [&](__m256& into, const uint8_t* x) {
                into = _mm256_fmadd_ps(_mm256_broadcast_ss(reinterpret_cast<const One*>(x)), weights, into);
            };
            (add(sum[I], own[I] + offset), ...);
        }
        (_mm256_storeu_ps(sums + I * TILE, sum[I]), ...);
    };
    product(First<COUNT>());
}

constexpr WholeProduct WHOLE[] = {whole_product<1>, whole_product<2>, whole_product<3>,
                                  whole_product<4>, whole_product<5>, whole_product<6>};
constexpr WholeProduct HALF_WHOLE[] = {half_product<1>, half_product<2>, half_product<3>, half_product<4>,
                                       half_product<5>, half_product<6>, half_product<7>, half_product<8>};
constexpr FloatProduct FLOAT[] = {float_product<1>, float_product<2>, float_product<3>,
                                  float_product<4>, float_product<5>, float_product<6>};
constexpr FloatProduct HALF_FLOAT[] = {half_float_product<1>, half_float_product<2>, half_float_product<3>,
                                       half_float_product<4>, half_float_product<5>, half_float_product<6>,
                                       half_float_product<7>, half_float_product<8>};

// No products of rows of windows here.
template <typename Panel, typename Sum>
inline void row_of(int, const Panel*, const uint8_t*, int64_t, int64_t, Sum*) {}
