// A program: convolutions that follow each other, run on a few samples at a time, so that what lies between them stays in the
// cache. See modelmill/kernels/program.py, which lays out memory and says where every operand lies.
#pragma once

#include <array>
#include <barrier>
#include <future>
#include <type_traits>

#include "packing.hpp"
#include "weight.hpp"
#include "work.hpp"

namespace modelmill::kernels {

// Activations, for each sample: floats [height][width][channels] with `border` pixels of zeros around them, and, where a coded
// convolution reads them, whole numbers with a border of their own and channels padded to a multiple of 4.
struct Value {
    int64_t channels, height, width;
    int64_t border, whole_border;  // whole_border -1: nobody reads whole numbers
    int64_t floats_at, whole_at;   // bytes from the area's begin, times the samples of a block
    int64_t given, taken;          // place among the program's inputs and outputs, or -1
    float fixed;                   // calibrated scale of the whole numbers, or 0

    int64_t padded_channels() const { return (channels + 3) / 4 * 4; }
    int64_t line() const { return (width + 2 * border) * channels; }
    int64_t floats() const { return (height + 2 * border) * line(); }
    int64_t whole_line() const { return (width + 2 * whole_border) * padded_channels(); }
    int64_t wholes() const { return (height + 2 * whole_border) * whole_line(); }
    bool outside() const { return border == 0 && (given >= 0 || taken >= 0); }  // floats are where the caller has them
};

struct Op {
    Weight weight;                     // with codes, whose x has no negative values; or without:
    const float* dense;                // [tiles][inputs][16]
    const uint8_t* runs;               // [tiles][steps], and
    const uint16_t* order;             // [tiles][steps]: see `runs_of`
    const int32_t* offsets;            // [steps]: bytes from a window's begin to a step's operands
    const int32_t *from, *to, *added;  // [pixels]: bytes to the window, floats to the output and to what is added
    int64_t x, residual, out, pixels, steps;
    bool relu;
    bool rows;  // 3 x 3 pixels, each window a pixel from the one before
};

struct Program {
    std::vector<Value> values;
    std::vector<Op> ops;
    std::vector<const float*> given;
    std::vector<float*> taken;
    int64_t batch, block;     // samples: all, and at a time
    int64_t area;             // bytes for each sample
    int64_t multiplications;  // for each sample
    int64_t most_steps() const {
        int64_t most = 0;
        for (const Op& op : ops) most = std::max(most, op.steps);
        return most;
    }
};

// What a tile's sums become: sum * scale * x_scale + bias, and what is added.
struct Ends {
    alignas(64) float scale[TILE] = {};
    alignas(64) float bias[TILE] = {};
    float x_scale;
    int64_t left;  // outputs of the tile
    Ends(const Op& op, int64_t tile, int64_t left, float x_scale) : x_scale(x_scale), left(left) {
        if (!op.dense) std::memcpy(scale, op.weight.scale + tile * TILE, sizeof scale);
        if (op.weight.bias) std::memcpy(bias, op.weight.bias + tile * TILE, static_cast<size_t>(left) * sizeof(float));
    }
};

// Pixels of an operation's result that are computed together.
struct Pixels {
    const Op& op;
    int64_t first;
    int count;
    float* result;     // the sample's, at the tile's first output
    const float* add;  // of the residual, or null
    float* out(int i) const { return result + op.to[first + i]; }
    const float* added(int i) const { return add + op.added[first + i]; }
};

// Of one to GROUP pixels, whose windows begin at `rows`, with a tile's outputs: sums [pixels][16].
struct Runs {
    const uint8_t* lengths;
    const uint16_t* order;
};
using WholeProduct = void (*)(const uint8_t* panel, const uint8_t* const* rows, const int32_t* offsets, Runs runs, int64_t steps,
                              int32_t* sums);
using FloatProduct = void (*)(const float* panel, const uint8_t* const* rows, const int32_t* offsets, int64_t steps, float* sums);

// Threads that run the same program: each on samples of its own, or all on the same ones and step by step.
struct Team {
    int size;
    std::barrier<> barrier;
    std::vector<int32_t> most;  // [size][block]: the largest output so far, as bits
    explicit Team(int threads, int64_t block) : size(threads), barrier(threads), most(static_cast<size_t>(threads * block)) {}
};

// Runs work(rank, team) in up to `wanted` threads, as many as can be had. `work` throws nothing.
template <typename Work>
void in_team(int wanted, int64_t block, const Work& work) {
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(wanted));
    std::promise<Team*> made;
    const std::shared_future<Team*> known = made.get_future().share();
    for (int rank = 1; rank < wanted; ++rank) {
        try {
            others.emplace_back([&work, known, rank] { work(rank, *known.get()); });
        } catch (...) {
            break;
        }
    }
    Team team(static_cast<int>(others.size()) + 1, block);
    made.set_value(&team);
    work(0, team);
    for (std::thread& other : others) other.join();
}

}  // namespace modelmill::kernels
