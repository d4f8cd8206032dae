// Products in plain C++. Included inside a namespace, as each instruction set's file is: see sets.hpp.
//
// A panel is a piece of a tile with its codes decoded: for each step 16 rows x 2 inputs, as 16-bit integers.

constexpr int ROWS = 4, TILES = 1;
constexpr int64_t BLOCK_BYTES = 192 << 10;
constexpr bool POSITIVE = false;
constexpr int STREAM = 0;  // rows that `stream` takes: there is none here

inline Mode mode_of(const Weight& weight) { return wide_mode(weight); }

inline void decode(const Weight& weight, const Mode& mode, const uint8_t* tile, int64_t first, int64_t steps, uint8_t* panel) {
    auto* out = reinterpret_cast<int16_t*>(panel);
    const int mask = (1 << weight.bits) - 1;
    for (int64_t step = first; step < first + steps; ++step) {
        const int64_t quad = step / 2;
        const uint8_t* bytes = tile + quad / weight.phases() * STEP_BYTES + step % 2 * 2;
        const int shift = static_cast<int>(quad % weight.phases()) * weight.bits;
        for (int row = 0; row < TILE; ++row)
            for (int input = 0; input < 2; ++input)
                *out++ = static_cast<int8_t>(mode.table[bytes[4 * row + input] >> shift & mask]);
    }
}

// sums[count][16] += what `count` rows of activations make with the panel. Sets whose TILES is 2 take the panels and sums of as
// many tiles, PANEL_BYTES and `apart` after each other.
inline void product(int, int count, const Mode&, const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets,
                    int64_t steps, int32_t* sums, int64_t) {
    for (int index = 0; index < count; ++index) {
        const auto* weights = reinterpret_cast<const int16_t*>(panel);
        int32_t* sum = sums + index * TILE;
        for (int64_t step = 0; step < steps; ++step, weights += 2 * TILE) {
            int16_t x[2];
            std::memcpy(x, rows[index] + offsets[step], sizeof x);
            for (int row = 0; row < TILE; ++row) sum[row] += weights[2 * row] * x[0] + weights[2 * row + 1] * x[1];
        }
    }
}

template <int COUNT>
inline void stream_rows(int, const Mode&, const uint8_t*, const uint8_t* const*, int64_t, int64_t, int32_t*) {}

inline int32_t sum_of(const int8_t* values, int64_t count) {
    int32_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += values[i];
    return sum;
}

template <typename Whole>
inline int64_t rounded_vectors(const float*, int64_t, float, Whole*) {
    return 0;  // none: the plain loop does all
}
