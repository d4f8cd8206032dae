// What becomes of sums: a layer's outputs. Included inside a namespace: see sets.hpp.

// Activations as a product reads them: row i's operands for step s are the 4 bytes at at[i] + offsets[s].
struct Rows {
    int64_t count;
    const uint8_t** at;
    float* scale;   // [count]
    int32_t* sums;  // [count][groups], or null where no output needs them
    const int32_t* offsets;
    int64_t steps;
};

// The end of a group: sums become floats, totals take them in. The sums start again at 0.
inline void fold(const Weight& weight, const Mode& mode, int64_t tile, int64_t group, const Rows& rows, int64_t first,
                 int64_t count, int32_t* __restrict sums, float* __restrict totals) {
    const int64_t place = (tile * weight.groups + group) * TILE;
    int32_t offset[TILE];
    for (int i = 0; i < TILE; ++i) offset[i] = mode.offset - (weight.zero ? weight.zero[place + i] : 0);
    const float* scale = weight.scale + place;
    const int32_t step = mode.step;
    for (int64_t row = 0; row < count; ++row, sums += TILE, totals += TILE) {
        const int32_t x = rows.sums ? rows.sums[(first + row) * weight.groups + group] : 0;
        for (int i = 0; i < TILE; ++i) {
            const int32_t sum = step * sums[i] + offset[i] * x;
            totals[i] = __builtin_fmaf(static_cast<float>(sum), scale[i], totals[i]);
            sums[i] = 0;
        }
    }
}

// What the sums of a row mean in floats, before the row's scale. `step` and `offset` are the mode's.
struct Integers {
    const int32_t* sums;  // [rows][16]
    const float* scale;   // [16]
    int32_t step, offset[TILE];

    Integers(const Weight& weight, const Mode& mode, int64_t tile, const int32_t* sums)
        : sums(sums), scale(weight.scale + tile * TILE), step(mode.step) {
        for (int i = 0; i < TILE; ++i) offset[i] = mode.offset - (weight.zero ? weight.zero[tile * TILE + i] : 0);
    }
    float at(int64_t row, int i, int32_t x) const {
        return static_cast<float>(step * sums[row * TILE + i] + offset[i] * x) * scale[i];
    }
};

// Totals of several groups.
struct Floats {
    const float* totals;  // [rows][16]
    float at(int64_t row, int i, int32_t) const { return totals[row * TILE + i]; }
};

template <bool RELU, bool RESIDUAL, typename Totals>
inline void finish_rows(const Weight& weight, int64_t tile, const Rows& rows, int64_t first, int64_t count, const Totals& totals,
                        const Finish& finish) {
    const int64_t left = std::min<int64_t>(TILE, weight.outputs - tile * TILE);
    float bias[TILE] = {};
    if (weight.bias) std::memcpy(bias, weight.bias + tile * TILE, static_cast<size_t>(left) * sizeof(float));
    const auto end = [&](int64_t row, const float* __restrict residual, float* __restrict out, int width) {
        const float scale = rows.scale[first + row];
        const int32_t x = rows.sums && weight.groups == 1 ? rows.sums[first + row] : 0;
        for (int i = 0; i < width; ++i) {
            float value = totals.at(row, i, x) * scale;
            value = value + bias[i];
            if constexpr (RESIDUAL) value = value + residual[i];
            if constexpr (RELU) value = value < 0 ? 0 : value;  // NaN stays
            out[i] = value;
        }
    };
    for (int64_t row = 0; row < count; ++row) {
        const int64_t place = (first + row) * weight.outputs + tile * TILE;
        const float* residual = RESIDUAL ? finish.residual + place : nullptr;
        if (left == TILE)
            end(row, residual, finish.out + place, TILE);
        else
            end(row, residual, finish.out + place, static_cast<int>(left));
    }
}

template <typename Totals>
inline void finish_tile(const Weight& weight, int64_t tile, const Rows& rows, int64_t first, int64_t count, const Totals& totals,
                        const Finish& finish) {
    if (finish.residual)
        finish.relu ? finish_rows<true, true>(weight, tile, rows, first, count, totals, finish)
                    : finish_rows<false, true>(weight, tile, rows, first, count, totals, finish);
    else
        finish.relu ? finish_rows<true, false>(weight, tile, rows, first, count, totals, finish)
                    : finish_rows<false, false>(weight, tile, rows, first, count, totals, finish);
}
