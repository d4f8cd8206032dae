// Products of programs in plain C++. Included inside a namespace: see sets.hpp.

constexpr int GROUP = 1, HALF_GROUP = 1, ROW = 0;

inline void whole_product(const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets, Runs, int64_t steps,
                          int32_t* sums) {
    const auto* weights = reinterpret_cast<const int8_t*>(panel);
    std::memset(sums, 0, TILE * sizeof(int32_t));
    for (int64_t step = 0; step < steps; ++step, weights += STEP_BYTES) {
        const uint8_t* x = rows[0] + offsets[step];
        for (int row = 0; row < TILE; ++row)
            for (int input = 0; input < 4; ++input) sums[row] += weights[4 * row + input] * x[input];
    }
}

inline void float_product(const float* panel, const uint8_t* const* rows, const int32_t* offsets, int64_t steps, float* sums) {
    std::memset(sums, 0, TILE * sizeof(float));
    for (int64_t step = 0; step < steps; ++step, panel += TILE) {
        float x;
        std::memcpy(&x, rows[0] + offsets[step], sizeof x);
        for (int row = 0; row < TILE; ++row) sums[row] += panel[row] * x;
    }
}

constexpr WholeProduct WHOLE[] = {whole_product}, HALF_WHOLE[] = {whole_product};
constexpr FloatProduct FLOAT[] = {float_product}, HALF_FLOAT[] = {float_product};

inline void decode_levels(const Weight& weight, const Mode& mode, const uint8_t* tile, int64_t steps, uint8_t* panel) {
    const int mask = (1 << weight.bits) - 1;
    for (int64_t step = 0; step < steps; ++step) {
        const uint8_t* bytes = tile + step / weight.phases() * STEP_BYTES;
        const int shift = static_cast<int>(step % weight.phases()) * weight.bits;
        for (int i = 0; i < STEP_BYTES; ++i) *panel++ = mode.table[bytes[i] >> shift & mask];
    }
}

template <bool RELU, bool RESIDUAL, typename Sum>
inline int64_t finish_vectors(const Ends&, const Sum*, const Pixels&, int32_t*) {
    return 0;
}
inline int64_t rounded_positive(const float*, int64_t, float, uint8_t*) { return 0; }

// No products of rows of windows here.
template <typename Panel, typename Sum>
inline void row_of(int, const Panel*, const uint8_t*, int64_t, int64_t, Sum*) {}
