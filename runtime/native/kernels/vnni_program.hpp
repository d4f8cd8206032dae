// Products of programs with AVX512-VNNI: a step of 16 outputs is one register, and vpdpbusd needs no runs. Included inside a
// namespace: see sets.hpp.

constexpr int GROUP = 12, HALF_GROUP = 12, ROW = 16;  // pixels at a time: for 16 outputs, for 8, and in a row of 3 x 3 windows

inline V512 spread(const uint8_t* at, V512) { return four_bytes(at); }
inline V512F spread(const uint8_t* at, V512F) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return _mm512_set1_ps(value);
}

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
            ((sum[I] = _mm512_fmadd_ps(spread(own[I] + offset, weights), weights, sum[I])), ...);
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

// Windows of 3 x 3 pixels in a row: each operand is loaded once for the three windows that it is part of, so that products are
// the limit and not loads.

inline V512 taken_from(const uint8_t* panel) { return load(panel); }
inline V512F taken_from(const float* panel) { return _mm512_loadu_ps(panel); }
inline void add_row(V512& sum, V512 weights, V512 x) { add_products(sum, x, weights); }
inline void add_row(V512F& sum, V512F weights, V512F x) { sum = _mm512_fmadd_ps(x, weights, sum); }
inline void start(V512& sum) { sum = _mm512_setzero_si512(); }
inline void start(V512F& sum) { sum = _mm512_setzero_ps(); }
inline void put(int32_t* at, V512 sum) { _mm512_storeu_si512(at, sum); }
inline void put(float* at, V512F sum) { _mm512_storeu_ps(at, sum); }

// Where pixels lie: few registers, in forms that an address can have.
struct Line {
    const uint8_t* eights[3];
    int64_t one, three, five, seven;
    Line(const uint8_t* at, int64_t pixel)
        : eights{at, at + 8 * pixel, at + 16 * pixel}, one(pixel), three(3 * pixel), five(5 * pixel), seven(7 * pixel) {}
    template <int PIXEL>
    __attribute__((always_inline)) const uint8_t* at() const {
        constexpr int REST = PIXEL % 8;
        const uint8_t* from = eights[PIXEL / 8];
        if constexpr (REST == 0) return from;
        if constexpr (REST == 1 || REST == 2 || REST == 4) return from + REST * one;
        if constexpr (REST == 3 || REST == 6) return from + REST / 3 * three;
        return from + (REST == 5 ? five : seven);
    }
    __attribute__((always_inline)) void step() { eights[0] += 4, eights[1] += 4, eights[2] += 4; }
};

template <typename Vector, int COUNT, typename Panel, typename Sum>
__attribute__((noinline)) void row_product(const Panel* panel, const uint8_t* x, int64_t line, int64_t pixel, Sum* sums) {
    constexpr int STEP = STEP_BYTES / sizeof(Panel);
    const int64_t steps = pixel / 4;
    const auto product = [&]<int... I, int... X>(Each<I...>, Each<X...>) __attribute__((always_inline)) {
        Vector sum[COUNT];
        (start(sum[I]), ...);
        for (int y = 0; y < 3; ++y, panel += 2 * steps * STEP) {
            Line pixels(x + y * line, pixel);
            for (int64_t step = 0; step < steps; ++step, panel += STEP, pixels.step()) {
                const Vector left = taken_from(panel), middle = taken_from(panel + steps * STEP),
                             right = taken_from(panel + 2 * steps * STEP);
                const auto add = [&]<int AT>(Each<AT>) __attribute__((always_inline)) {
                    const Vector value = spread(pixels.at<AT>(), left);
                    if constexpr (AT < COUNT) add_row(sum[AT], left, value);
                    if constexpr (AT >= 1 && AT <= COUNT) add_row(sum[AT - 1], middle, value);
                    if constexpr (AT >= 2) add_row(sum[AT - 2], right, value);
                };
                (add(Each<X>()), ...);
            }
        }
        (put(sums + I * TILE, sum[I]), ...);
    };
    product(First<COUNT>(), First<COUNT + 2>());
}

template <int... I>
constexpr auto row_products(Each<I...>) {
    return std::pair{std::array{&row_product<V512, I + 1, uint8_t, int32_t>...},
                     std::array{&row_product<V512F, I + 1, float, float>...}};
}
constexpr auto ROWS_OF = row_products(First<ROW>());
inline void row_of(int count, const uint8_t* panel, const uint8_t* x, int64_t line, int64_t pixel, int32_t* sums) {
    ROWS_OF.first[static_cast<size_t>(count - 1)](panel, x, line, pixel, sums);
}
inline void row_of(int count, const float* panel, const uint8_t* x, int64_t line, int64_t pixel, float* sums) {
    ROWS_OF.second[static_cast<size_t>(count - 1)](panel, x, line, pixel, sums);
}
