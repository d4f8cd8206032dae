// Which products may be added in 16 bits. The same for every instruction set.
#pragma once

#include "weight.hpp"

#include <vector>

namespace modelmill::kernels {

// The steps of a tile, put into runs: their products with activations of 0..largest, two by two, fit 16-bit sums however the
// activations are. For 127 a step by itself always does: 2 * 127 * 128 is below 2 ** 15.
class Packing {
public:
    Packing(const int8_t* levels, int64_t steps, int largest) : levels_(levels), steps_(steps), most_(INT16_MAX / largest) {
        for (int64_t step = 0; step < steps; ++step) place(step);
        // Runs of one length side by side: a processor foresees their ends.
        std::stable_sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) { return a.steps.size() > b.steps.size(); });
    }
    // Whether each step fits by itself.
    bool possible() const { return possible_; }
    // `lengths` [steps], 0 behind the last; `order` [steps].
    void write(uint8_t* lengths, uint16_t* order) const {
        std::memset(lengths, 0, static_cast<size_t>(steps_));
        for (const Run& run : runs_) {
            *lengths++ = static_cast<uint8_t>(run.steps.size());
            order = std::copy(run.steps.begin(), run.steps.end(), order);
        }
    }

private:
    static constexpr int LANES = 2 * TILE, LONGEST_RUN = 255, OPEN = 12;
    struct Run {
        std::vector<uint16_t> steps;
        int above[LANES] = {}, below[LANES] = {};  // the sums' reach over the largest activation
    };

    // Into the first of the last few runs that has room.
    void place(int64_t step) {
        int more[LANES], less[LANES];
        for (int i = 0; i < LANES; ++i) {
            const int one = levels_[step * STEP_BYTES + 2 * i], two = levels_[step * STEP_BYTES + 2 * i + 1];
            more[i] = std::max(one, 0) + std::max(two, 0), less[i] = std::max(-one, 0) + std::max(-two, 0);
        }
        size_t index = runs_.size() > OPEN ? runs_.size() - OPEN : 0;
        while (index < runs_.size() && !fits(runs_[index], more, less)) ++index;
        if (index == runs_.size()) {
            runs_.emplace_back();
            possible_ = possible_ && fits(runs_.back(), more, less);
        }
        Run& run = runs_[index];
        run.steps.push_back(static_cast<uint16_t>(step));
        for (int i = 0; i < LANES; ++i) run.above[i] += more[i], run.below[i] += less[i];
    }
    bool fits(const Run& run, const int* more, const int* less) const {
        bool room = run.steps.size() < LONGEST_RUN;
        for (int i = 0; i < LANES; ++i) room = room && run.above[i] + more[i] <= most_ && run.below[i] + less[i] <= most_;
        return room;
    }

    const int8_t* levels_;
    int64_t steps_;
    int most_;
    bool possible_ = true;
    std::vector<Run> runs_;
};

// A linear weight in runs, for activations that are 128 above what they are.
struct Packed {
    const uint8_t* lengths;  // [tiles][steps]
    const uint16_t* order;   // the same
    const int32_t* shift;    // [tiles][16]: 128 times the sum of an output's levels
};

}  // namespace modelmill::kernels
