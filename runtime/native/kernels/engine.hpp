// Rows of activations times a weight's tiles. Included inside a namespace: see sets.hpp.

// Activations as a product reads them: row i's operands for step s are the 4 bytes at at[i] + offsets[s].
struct Rows {
    int64_t count;
    const uint8_t** at;
    float* scale;   // [count]
    int32_t* sums;  // [count][groups], or null where no output needs them
    const int32_t* offsets;
    int64_t steps;
};

struct Area {
    uint8_t* panel;
    int32_t* sums;  // [rows][16]
    float* totals;  // [rows][16]
};

// How `weight` is multiplied with these activations where more than a few rows come.
inline Mode mode_for(const Weight& weight, const float* x, int64_t count) {
    Mode mode = mode_of(weight);
    if (POSITIVE && mode.wide && positive(x, count)) mode.wide = false;
    return mode;
}

inline bool needs_sums(const Weight& weight, const Mode& mode) { return weight.zero || mode.offset != 0; }

inline size_t area_bytes(int64_t rows) { return PANEL_BYTES + 2 * 64 * static_cast<size_t>(rows) + 3 * 64; }
inline Area area_in(Scratch& scratch, int64_t rows) {
    return {scratch.take<uint8_t>(PANEL_BYTES), scratch.take<int32_t>(16 * rows), scratch.take<float>(16 * rows)};
}

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

template <bool RELU, bool RESIDUAL>
inline void finish_rows(const Weight& weight, int64_t tile, const Rows& rows, int64_t first, int64_t count, const float* totals,
                        const Finish& finish) {
    const int64_t left = std::min<int64_t>(TILE, weight.outputs - tile * TILE);
    float bias[TILE] = {};
    if (weight.bias) std::memcpy(bias, weight.bias + tile * TILE, static_cast<size_t>(left) * sizeof(float));
    const auto end = [&](const float* __restrict total, float scale, const float* residual, float* out, int64_t width) {
        for (int64_t i = 0; i < width; ++i) {
            float value = total[i] * scale;
            value = value + bias[i];
            if constexpr (RESIDUAL) value = value + residual[i];
            if constexpr (RELU) value = value < 0 ? 0 : value;  // NaN stays
            out[i] = value;
        }
    };
    for (int64_t row = 0; row < count; ++row, totals += TILE) {
        const int64_t place = (first + row) * weight.outputs + tile * TILE;
        const float* residual = RESIDUAL ? finish.residual + place : nullptr;
        if (left == TILE)
            end(totals, rows.scale[first + row], residual, finish.out + place, TILE);
        else
            end(totals, rows.scale[first + row], residual, finish.out + place, left);
    }
}

inline void finish_tile(const Weight& weight, int64_t tile, const Rows& rows, int64_t first, int64_t count, const float* totals,
                        const Finish& finish) {
    if (finish.residual)
        finish.relu ? finish_rows<true, true>(weight, tile, rows, first, count, totals, finish)
                    : finish_rows<false, true>(weight, tile, rows, first, count, totals, finish);
    else
        finish.relu ? finish_rows<true, false>(weight, tile, rows, first, count, totals, finish)
                    : finish_rows<false, false>(weight, tile, rows, first, count, totals, finish);
}

// Steps [first, last) of a block of rows, whose panel lies there; groups that end are folded.
inline void steps_of(const Weight& weight, const Mode& mode, int64_t tile, const Rows& rows, int64_t row, int count,
                     int64_t first, int64_t last, const uint8_t* panel, int32_t* sums, float* totals) {
    const int64_t length = weight.groups == 1 ? rows.steps : weight.group() / 4 * mode.per_quad();
    for (int64_t step = first; step < last;) {
        const int64_t group = step / length, end = std::min(last, (group + 1) * length);
        product(count, mode, panel + (step - first) * STEP_BYTES, rows.at + row, rows.offsets + step, end - step, sums);
        if (end == (group + 1) * length) fold(weight, mode, tile, group, rows, row, count, sums, totals);
        step = end;
    }
}

// Panel by panel: a piece of a tile is decoded once and used for all rows.
inline void multiply(const Weight& weight, const Mode& mode, const Rows& rows, int64_t tile, int64_t last_tile, const Area& area,
                     const Finish& finish) {
    for (; tile < last_tile; ++tile) {
        std::memset(area.sums, 0, static_cast<size_t>(rows.count) * TILE * sizeof(int32_t));
        std::memset(area.totals, 0, static_cast<size_t>(rows.count) * TILE * sizeof(float));
        for (int64_t first = 0; first < rows.steps; first += PANEL_STEPS) {
            const int64_t last = std::min<int64_t>(rows.steps, first + PANEL_STEPS);
            decode(weight, mode, weight.tile(tile), first, last - first, area.panel);
            for (int64_t row = 0; row < rows.count;) {
                const int64_t left = rows.count - row;
                const int count =
                    static_cast<int>(left >= 2 * ROWS || left <= ROWS ? std::min<int64_t>(ROWS, left) : (left + 1) / 2);
                steps_of(weight, mode, tile, rows, row, count, first, last, area.panel, area.sums + row * TILE,
                         area.totals + row * TILE);
                row += count;
            }
        }
        finish_tile(weight, tile, rows, 0, rows.count, area.totals, finish);
    }
}

// Few rows: the codes are read once, from the file's memory, and nothing of them is written anywhere.
inline void multiply_few(const Weight& weight, const Mode& mode, const Rows& rows, int64_t tile, int64_t last_tile,
                         const Finish& finish) {
    const int64_t length = weight.groups == 1 ? weight.blocks() : weight.group() / 4 / weight.phases();
    for (; tile < last_tile; ++tile) {
        alignas(64) int32_t sums[4 * TILE] = {};
        alignas(64) float totals[4 * TILE] = {};
        for (int64_t group = 0; group < weight.groups; ++group) {
            stream(static_cast<int>(rows.count), weight, mode, weight.tile(tile), rows.at, group * length, length, sums);
            fold(weight, mode, tile, group, rows, 0, rows.count, sums, totals);
        }
        finish_tile(weight, tile, rows, 0, rows.count, totals, finish);
    }
}
