// A linear layer: each row of x has its own scale. Included inside a namespace: see sets.hpp.

inline bool streamable(const Weight& weight, const Mode& mode, int64_t rows) {
    const bool whole_blocks = weight.groups == 1 || weight.group() % (4 * weight.phases()) == 0;
    return rows <= STREAM && whole_blocks && !(weight.bits == 8 && mode.mapped);
}

template <typename Whole>
inline void linear_rows(const Weight& weight, const Mode& mode, const float* x, int64_t first, int64_t last, int64_t tile,
                        int64_t last_tile, float fixed, bool few, const Finish& finish) {
    constexpr int64_t PER_STEP = 4 / sizeof(Whole);
    // Inputs, filled up with zeros to an odd number of cache lines: rows of 4,096 bytes would all want the same lines.
    constexpr int64_t LINE = 64 / sizeof(Whole);
    const int64_t width = ((weight.blocks() * weight.phases() * 4 + LINE - 1) / LINE | 1) * LINE;
    const int64_t bytes = width * static_cast<int64_t>(sizeof(Whole));
    const int64_t most = std::clamp<int64_t>(BLOCK_BYTES / bytes, 2 * ROWS, MOST_ROWS);
    const int64_t block = std::min(last - first, most), steps = weight.quads() * 4 / PER_STEP;
    const bool summed = needs_sums(weight, mode);
    const auto count = static_cast<size_t>(block);
    Scratch& scratch = Scratch::own();
    scratch.reserve(area_bytes(block) + count * (static_cast<size_t>(bytes) + 12 + 4 * static_cast<size_t>(weight.groups)) +
                    4 * static_cast<size_t>(steps) + 8 * 64);
    const Area area = area_in(scratch, block);
    auto* whole = scratch.take<Whole>(count * static_cast<size_t>(width));
    auto* offsets = scratch.take<int32_t>(static_cast<size_t>(steps));
    Rows rows{block, scratch.take<const uint8_t*>(count), scratch.take<float>(count), nullptr, offsets, steps};
    if (summed) rows.sums = scratch.take<int32_t>(count * static_cast<size_t>(weight.groups));
    for (int64_t step = 0; step < steps; ++step) offsets[step] = static_cast<int32_t>(4 * step);
    const int64_t length = weight.groups == 1 ? steps : weight.group() / PER_STEP;
    for (int64_t from = first; from < last; from += block) {
        rows.count = std::min(block, last - from);
        for (int64_t row = 0; row < rows.count; ++row) {
            const float* values = x + (from + row) * weight.inputs;
            Whole* own = whole + row * width;
            const Step step = step_of(values, weight.inputs, fixed);
            quantize(values, weight.inputs, step.inverse, own);
            for (int64_t i = weight.inputs; i < width; ++i) own[i] = 0;
            rows.at[row] = reinterpret_cast<const uint8_t*>(own), rows.scale[row] = step.scale;
            for (int64_t group = 0; summed && group < weight.groups; ++group)
                rows.sums[row * weight.groups + group] = sum_of_steps<Whole>(rows.at[row], offsets + group * length, length);
        }
        const Finish part{finish.out + from * weight.outputs, nullptr, finish.relu};
        if (few)
            multiply_few(weight, mode, rows, tile, last_tile, part);
        else
            multiply(weight, mode, rows, tile, last_tile, area, part);
    }
}

// x [rows][inputs]. Throws std::bad_alloc.
inline void linear(const Weight& weight, const float* x, int64_t rows, float fixed, int threads, const Finish& finish) {
    const bool few = streamable(weight, mode_of(weight), rows);
    const Mode mode = few ? mode_of(weight) : mode_for(weight, x, rows * weight.inputs);
    const int parts = threads_for(rows * weight.outputs * weight.inputs, threads);
    in_parts(parts, [&](int part) {
        const bool by_tile = weight.tiles() >= 4 * parts;
        const int64_t all = by_tile ? weight.tiles() : rows, from = all * part / parts, to = all * (part + 1) / parts;
        const int64_t row = by_tile ? 0 : from, last = by_tile ? rows : to;
        const int64_t tile = by_tile ? from : 0, last_tile = by_tile ? to : weight.tiles();
        if (row == last || tile == last_tile) return;
        if (mode.wide && !few)
            linear_rows<int16_t>(weight, mode, x, row, last, tile, last_tile, fixed, few, finish);
        else
            linear_rows<int8_t>(weight, mode, x, row, last, tile, last_tile, fixed, few, finish);
    });
}
