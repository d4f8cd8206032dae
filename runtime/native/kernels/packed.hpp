// A linear layer whose steps are packed into runs (`Packing`), for more than a few rows. Included inside a namespace: see
// sets.hpp. Activations are 128 above what they are, so that they are the unsigned operand; `shift` takes that out of the sums.

constexpr int32_t MIDDLE = 128;

template <bool RELU>
inline void finish_packed(const Weight& weight, const Packed& packed, int64_t tile, const int32_t* sums, const float* scales,
                          int count, float* out) {
    const int64_t left = std::min<int64_t>(TILE, weight.outputs - tile * TILE);
    const float* scale = weight.scale + tile * TILE;
    const int32_t* shift = packed.shift + tile * TILE;
    float bias[TILE] = {};
    if (weight.bias) std::memcpy(bias, weight.bias + tile * TILE, static_cast<size_t>(left) * sizeof(float));
    const auto end = [&](const int32_t* __restrict sum, float x_scale, float* __restrict to, int64_t outputs) {
        for (int64_t i = 0; i < outputs; ++i) {
            float value = static_cast<float>(sum[i] - shift[i]) * scale[i];
            value = value * x_scale;
            value = value + bias[i];
            if constexpr (RELU) value = value < 0 ? 0 : value;  // NaN stays
            to[i] = value;
        }
    };
    for (int row = 0; row < count; ++row, sums += TILE, out += weight.outputs)
        left == TILE ? end(sums, scales[row], out, TILE) : end(sums, scales[row], out, left);
}

inline void packed_rows(const Weight& weight, const Packed& packed, const float* x, int64_t first, int64_t last, int64_t tile,
                        int64_t last_tile, float fixed, const Finish& finish) {
    // An odd number of cache lines, as in `linear_rows`.
    const int64_t steps = weight.quads(), width = ((4 * steps + 63) / 64 | 1) * 64;
    const int64_t block = std::min(last - first, std::clamp<int64_t>(BLOCK_BYTES / width, 2 * GROUP, MOST_ROWS));
    Scratch& scratch = Scratch::own();
    scratch.reserve(static_cast<size_t>(block * (width + 4) + 4 * steps) + 3 * 64);
    auto* whole = scratch.take<uint8_t>(static_cast<size_t>(block * width));
    auto* scales = scratch.take<float>(static_cast<size_t>(block));
    auto* offsets = scratch.take<int32_t>(static_cast<size_t>(steps));
    for (int64_t step = 0; step < steps; ++step) offsets[step] = static_cast<int32_t>(4 * step);
    for (int64_t from = first; from < last; from += block) {
        const int64_t count = std::min(block, last - from);
        for (int64_t row = 0; row < count; ++row) {
            const float* values = x + (from + row) * weight.inputs;
            uint8_t* own = whole + row * width;
            const Step step = step_of(values, weight.inputs, fixed);
            scales[row] = step.scale;
            quantize(values, weight.inputs, step.inverse, reinterpret_cast<int8_t*>(own));
            for (int64_t i = 0; i < weight.inputs; ++i) own[i] ^= MIDDLE;
            std::memset(own + weight.inputs, MIDDLE, static_cast<size_t>(4 * steps - weight.inputs));
        }
        for (int64_t own = tile; own < last_tile; ++own) {
            const Runs runs{packed.lengths + own * steps, packed.order + own * steps};
            for (int64_t row = 0; row < count;) {
                const auto group = static_cast<int>(std::min<int64_t>(GROUP, count - row));
                const uint8_t* rows[GROUP];
                for (int i = 0; i < group; ++i) rows[i] = whole + (row + i) * width;
                alignas(64) int32_t sums[GROUP * TILE];
                WHOLE[group - 1](weight.tile(own), rows, offsets, runs, steps, sums);
                float* out = finish.out + (from + row) * weight.outputs + own * TILE;
                finish.relu ? finish_packed<true>(weight, packed, own, sums, scales + row, group, out)
                            : finish_packed<false>(weight, packed, own, sums, scales + row, group, out);
                row += group;
            }
        }
    }
}

// int8 codes that are their levels. x [rows][inputs]. Throws std::bad_alloc.
inline void packed_linear(const Weight& weight, const Packed& packed, const float* x, int64_t rows, float fixed, int threads,
                          const Finish& finish) {
    const int parts = threads_for(rows * weight.outputs * weight.inputs, threads);
    in_parts(parts, [&](int part) {
        const bool by_tile = weight.tiles() >= 4 * parts;
        const int64_t all = by_tile ? weight.tiles() : rows, from = all * part / parts, to = all * (part + 1) / parts;
        if (from == to) return;
        by_tile ? packed_rows(weight, packed, x, 0, rows, from, to, fixed, finish)
                : packed_rows(weight, packed, x, from, to, 0, weight.tiles(), fixed, finish);
    });
}
