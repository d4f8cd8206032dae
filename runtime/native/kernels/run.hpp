// Runs a program. Included inside a namespace: see sets.hpp.

// Codes as signed levels, 4 inputs a step.
inline Mode levels_mode(const Weight& weight) {
    Mode mode = wide_mode(weight);
    mode.wide = false;
    return mode;
}

// A tile's levels: the file's own bytes where a code is its level, else decoded into `panel`.
inline const uint8_t* levels_of(const Weight& weight, int64_t tile, int64_t steps, uint8_t* panel) {
    if (weight.bits == 8 && !weight.levels) return weight.tile(tile);
    decode_levels(weight, levels_mode(weight), weight.tile(tile), steps, panel);
    return panel;
}

// lengths and order [tiles][steps]. False where a step does not fit by itself: then they mean nothing. Throws std::bad_alloc.
inline bool runs_of(const Weight& weight, int64_t steps, int largest, uint8_t* lengths, uint16_t* order) {
    std::vector<uint8_t> panel(static_cast<size_t>(steps + 16) * STEP_BYTES);
    for (int64_t tile = 0; tile < weight.tiles(); ++tile, lengths += steps, order += steps) {
        const auto* levels = reinterpret_cast<const int8_t*>(levels_of(weight, tile, steps, panel.data()));
        const Packing packing(levels, steps, largest);
        if (!packing.possible()) return false;
        packing.write(lengths, order);
    }
    return true;
}

// As `quantize`. The caller vouches that nothing is below 0; a lie must not leave 0..127 either.
inline void quantize_positive(const float* values, int64_t count, float inverse, uint8_t* out) {
    if (inverse == 0) {
        std::memset(out, 0, static_cast<size_t>(count));
        return;
    }
    for (int64_t i = rounded_positive(values, count, inverse, out); i < count; ++i) {
        float value = values[i] * inverse;
        value = value > LARGEST ? LARGEST : value > 0 ? value : 0;
        out[i] = static_cast<uint8_t>(static_cast<int32_t>((value + ROUNDER) - ROUNDER));  // half to even
    }
}

template <bool RELU, bool RESIDUAL, typename Sum>
inline void finish_one(const Ends& ends, int64_t at, Sum sum, const float* added, float* out, int32_t& largest) {
    float value = static_cast<float>(sum);
    if constexpr (!std::is_same_v<Sum, float>) value = value * ends.scale[at], value = value * ends.x_scale;
    value = value + ends.bias[at];
    if constexpr (RESIDUAL) value = value + *added;
    if constexpr (RELU) value = value < 0 ? 0 : value;  // NaN stays
    *out = value;
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    largest = std::max(largest, bits & 0x7fffffff);
}

template <bool RELU, bool RESIDUAL, typename Sum>
inline void finish_as(const Ends& ends, const Sum* sums, const Pixels& pixels, int32_t* largest) {
    const int64_t done = finish_vectors<RELU, RESIDUAL>(ends, sums, pixels, largest);
    if (done == ends.left) return;
    for (int i = 0; i < pixels.count; ++i, sums += TILE)
        for (int64_t at = done; at < ends.left; ++at)
            finish_one<RELU, RESIDUAL>(ends, at, sums[at], RESIDUAL ? pixels.added(i) + at : nullptr, pixels.out(i) + at,
                                       largest[at]);
}

template <typename Sum>
inline void finish(const Ends& ends, const Sum* sums, const Pixels& pixels, int32_t* largest) {
    if (pixels.add)
        pixels.op.relu ? finish_as<true, true>(ends, sums, pixels, largest) : finish_as<false, true>(ends, sums, pixels, largest);
    else
        pixels.op.relu ? finish_as<true, false>(ends, sums, pixels, largest)
                       : finish_as<false, false>(ends, sums, pixels, largest);
}

constexpr int NARROWEST = 6;
constexpr int MOST_TOGETHER = std::max({GROUP, HALF_GROUP, ROW});  // pixels

// One thread's view of a block of samples.
class Block {
public:
    Block(const Program& program, uint8_t* area, float* scales, uint8_t* panel, Team& team, bool alone, int rank)
        : program_(program), area_(area), scales_(scales), panel_(panel), team_(team), alone_(alone), rank_(rank) {}

    void run(int64_t first, int64_t count) {
        first_ = first, count_ = count;
        for (const Value& value : program_.values)
            if (value.given >= 0) take(value);
        meet();
        for (const Op& op : program_.ops) {
            const Value& out = program_.values[static_cast<size_t>(op.out)];
            clear_border(out);
            for (int64_t sample = 0; sample < count_; ++sample) most(rank_, sample) = 0;
            op.dense ? convolve<float>(op, out) : convolve<int32_t>(op, out);
            meet();
            if (out.whole_border >= 0) quantize_value(out);
            if (out.taken >= 0 && !out.outside()) hand_out(out);
            meet();
        }
    }

private:
    int size() const { return alone_ ? 1 : team_.size; }
    int part() const { return alone_ ? 0 : rank_; }
    void meet() {
        if (size() > 1) team_.barrier.arrive_and_wait();
    }
    int32_t& most(int rank, int64_t sample) { return team_.most[static_cast<size_t>(rank * program_.block + sample)]; }
    int64_t begin(int64_t all) const { return all * part() / size(); }
    int64_t end(int64_t all) const { return all * (part() + 1) / size(); }

    float* floats(const Value& value, int64_t sample) {
        if (!value.outside()) return reinterpret_cast<float*>(area_ + value.floats_at * program_.block) + sample * value.floats();
        const auto* place = value.given >= 0 ? program_.given[static_cast<size_t>(value.given)]
                                             : program_.taken[static_cast<size_t>(value.taken)];
        return const_cast<float*>(place) + (first_ + sample) * value.floats();  // of what is given nothing is written
    }
    uint8_t* wholes(const Value& value, int64_t sample) {
        return area_ + value.whole_at * program_.block + sample * value.wholes();
    }
    float& scale(const Value& value, int64_t sample) {
        return scales_[(&value - program_.values.data()) * program_.block + sample];
    }

    void clear_border(const Value& value) {
        if (value.border == 0 || part() != 0) return;
        const int64_t side = value.border * value.channels;
        for (int64_t sample = 0; sample < count_; ++sample) {
            float* line = floats(value, sample);
            const auto clear = [&](float* from, int64_t count) {
                std::memset(from, 0, static_cast<size_t>(count) * sizeof(float));
            };
            clear(line, value.border * value.line() + side);
            line += value.border * value.line() + side;
            for (int64_t y = 0; y < value.height; ++y, line += value.line()) {
                const bool last = y + 1 == value.height;
                clear(line + value.width * value.channels, last ? side + value.border * value.line() : 2 * side);
            }
        }
    }

    // What the caller gives: copied where it needs a border, as whole numbers where they are read.
    void take(const Value& value) {
        const int64_t line = value.width * value.channels;
        clear_border(value);
        for (int64_t sample = 0; sample < count_; ++sample) {
            const float* from = program_.given[static_cast<size_t>(value.given)] + (first_ + sample) * value.height * line;
            if (!value.outside()) {
                float* to = floats(value, sample) + value.border * (value.line() + value.channels);
                for (int64_t y = begin(value.height); y < end(value.height); ++y)
                    std::memcpy(to + y * value.line(), from + y * line, static_cast<size_t>(line) * sizeof(float));
            }
            if (value.whole_border < 0) continue;
            int32_t largest = 0;
            const auto* bits = reinterpret_cast<const Bits*>(from);
            for (int64_t i = begin(value.height) * line; i < end(value.height) * line; ++i)
                largest = std::max(largest, bits[i] & 0x7fffffff);
            most(rank_, sample) = largest;
        }
        if (value.whole_border < 0) return;
        meet();
        quantize_value(value);
        meet();
    }

    void quantize_value(const Value& value) {
        const int64_t padded = value.padded_channels(), border = value.whole_border, line = value.whole_line();
        for (int64_t sample = 0; sample < count_; ++sample) {
            int32_t largest = 0;
            for (int rank = 0; rank < size(); ++rank) largest = std::max(largest, most(alone_ ? rank_ : rank, sample));
            const Step step = step_for(largest, value.fixed);
            if (part() == 0) scale(value, sample) = step.scale;
            const float* from = floats(value, sample) + value.border * (value.line() + value.channels);
            uint8_t* to = wholes(value, sample);
            if (part() == 0) std::memset(to, 0, static_cast<size_t>(border * line));
            if (part() == size() - 1) std::memset(to + (border + value.height) * line, 0, static_cast<size_t>(border * line));
            for (int64_t y = begin(value.height); y < end(value.height); ++y) {
                uint8_t* pixels = to + (border + y) * line;
                std::memset(pixels, 0, static_cast<size_t>(border * padded));
                quantize_pixels(value, from + y * value.line(), step.inverse, pixels + border * padded);
                std::memset(pixels + (border + value.width) * padded, 0, static_cast<size_t>(border * padded));
            }
        }
    }

    static void quantize_pixels(const Value& value, const float* from, float inverse, uint8_t* to) {
        const int64_t padded = value.padded_channels();
        if (padded == value.channels) return quantize_positive(from, value.width * value.channels, inverse, to);
        for (int64_t x = 0; x < value.width; ++x) {
            quantize_positive(from + x * value.channels, value.channels, inverse, to + x * padded);
            std::memset(to + x * padded + value.channels, 0, static_cast<size_t>(padded - value.channels));
        }
    }

    void hand_out(const Value& value) {
        const int64_t line = value.width * value.channels;
        for (int64_t sample = 0; sample < count_; ++sample) {
            const float* from = floats(value, sample) + value.border * (value.line() + value.channels);
            float* to = program_.taken[static_cast<size_t>(value.taken)] + (first_ + sample) * value.height * line;
            for (int64_t y = begin(value.height); y < end(value.height); ++y)
                std::memcpy(to + y * line, from + y * value.line(), static_cast<size_t>(line) * sizeof(float));
        }
    }

    // Fewer windows than these in a row are no work for a product of rows: sums would wait for each other.
    static bool in_rows(const Op& op, const Value& out) { return ROW != 0 && op.rows && out.width >= NARROWEST; }

    // Pixels from here on that are computed together: as many as a product takes, or of one row of windows a fair share.
    int together(const Op& op, const Value& out, int64_t left, int64_t pixel) const {
        const int64_t most = end(op.pixels) - pixel;
        if (!in_rows(op, out)) return static_cast<int>(std::min<int64_t>(left <= TILE / 2 ? HALF_GROUP : GROUP, most));
        const int64_t row = std::min(most, out.width - pixel % out.width), shares = (row + MOST_TOGETHER - 1) / MOST_TOGETHER;
        return static_cast<int>((row + shares - 1) / shares);
    }

    template <typename Sum>
    void convolve(const Op& op, const Value& out) {
        constexpr bool DENSE = std::is_same_v<Sum, float>;
        const Value& x = program_.values[static_cast<size_t>(op.x)];
        const Value* residual = op.residual < 0 ? nullptr : &program_.values[static_cast<size_t>(op.residual)];
        const int64_t x_pixel = DENSE ? 4 * x.channels : x.padded_channels(), x_line = DENSE ? 4 * x.line() : x.whole_line();
        for (int64_t tile = 0; tile < op.weight.tiles(); ++tile) {
            const int64_t left = std::min<int64_t>(TILE, op.weight.outputs - tile * TILE);
            const uint8_t* levels = DENSE ? nullptr : levels_of(op.weight, tile, op.steps, panel_);
            const float* dense = DENSE ? op.dense + tile * op.steps * TILE : nullptr;
            for (int64_t sample = 0; sample < count_; ++sample) {
                const uint8_t* image = DENSE ? reinterpret_cast<const uint8_t*>(floats(x, sample)) : wholes(x, sample);
                const float* add = residual ? floats(*residual, sample) + tile * TILE : nullptr;
                const Ends ends(op, tile, left, DENSE ? 1 : scale(x, sample));
                int32_t largest[TILE] = {};
                for (int64_t pixel = begin(op.pixels); pixel < end(op.pixels);) {
                    const int count = together(op, out, left, pixel);
                    alignas(64) Sum sums[MOST_TOGETHER * TILE];
                    if (in_rows(op, out)) {
                        const uint8_t* first = image + op.from[pixel];
                        if constexpr (DENSE)
                            row_of(count, dense, first, x_line, x_pixel, sums);
                        else
                            row_of(count, levels, first, x_line, x_pixel, sums);
                    } else {
                        const uint8_t* rows[MOST_TOGETHER];
                        for (int i = 0; i < count; ++i) rows[i] = image + op.from[pixel + i];
                        const Runs runs{op.runs + tile * op.steps, op.order + tile * op.steps};
                        if constexpr (DENSE)
                            (left <= TILE / 2 ? HALF_FLOAT : FLOAT)[count - 1](dense, rows, op.offsets, op.steps, sums);
                        else
                            (left <= TILE / 2 ? HALF_WHOLE : WHOLE)[count - 1](levels, rows, op.offsets, runs, op.steps, sums);
                    }
                    finish(ends, sums, {op, pixel, count, floats(out, sample) + tile * TILE, add}, largest);
                    pixel += count;
                }
                for (const int32_t one : largest) most(rank_, sample) = std::max(most(rank_, sample), one);
            }
        }
    }

    const Program& program_;
    uint8_t* area_;
    float* scales_;  // [values][block]
    uint8_t* panel_;
    Team& team_;
    bool alone_;
    int rank_;
    int64_t first_ = 0, count_ = 0;
};

// Throws std::bad_alloc.
inline void run(const Program& program, int threads) {
    const int wanted = threads_for(program.multiplications * program.batch, threads);
    const auto area = static_cast<size_t>(program.area * program.block);
    const size_t scales = Scratch::rounded(program.values.size() * static_cast<size_t>(program.block) * sizeof(float));
    const size_t panel = Scratch::rounded(static_cast<size_t>(program.most_steps() + 16) * STEP_BYTES);
    Scratch& scratch = Scratch::own();
    scratch.reserve(static_cast<size_t>(wanted) * (area + scales + panel) + 64);
    auto* memory = scratch.take<uint8_t>(static_cast<size_t>(wanted) * (area + scales + panel));
    in_team(wanted, program.block, [&](int rank, Team& team) {
        const bool alone = program.batch >= team.size;
        uint8_t* own = memory + static_cast<size_t>(rank) * (area + scales + panel);
        uint8_t* shared = alone ? own : memory;
        Block block(program, shared, reinterpret_cast<float*>(shared + area), own + area + scales, team, alone, rank);
        const int64_t first = alone ? program.batch * rank / team.size : 0;
        const int64_t last = alone ? program.batch * (rank + 1) / team.size : program.batch;
        for (int64_t from = first; from < last; from += program.block) block.run(from, std::min(program.block, last - from));
    });
}
