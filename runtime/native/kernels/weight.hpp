// A coded weight as the file holds it, and what its codes mean: see docs/design/0008-compression.md, "Codes".
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace modelmill::kernels {

constexpr int TILE = 16;        // rows of a tile
constexpr int STEP_BYTES = 64;  // of codes or of a panel: 16 rows x 4 bytes
constexpr int LARGEST = 127;    // activation

// Rows 0, 1, ...: sums are unrolled over a pack, because the compiler keeps an array that a loop runs over in memory.
template <int... I>
using Each = std::integer_sequence<int, I...>;
template <int COUNT>
using First = std::make_integer_sequence<int, COUNT>;

struct Weight {
    const uint8_t* codes;
    const float* scale;    // [tiles][groups][16]
    const int8_t* zero;    // the same, or null: 0
    const int8_t* levels;  // [2 ** bits], or null: a code is its own level (int8 at 8 bits, else unsigned)
    const float* bias;     // [outputs] or null
    int bits;
    int64_t outputs, inputs;
    int groups;

    int phases() const { return 8 / bits; }
    int64_t tiles() const { return (outputs + TILE - 1) / TILE; }
    int64_t quads() const { return (inputs + 3) / 4; }
    int64_t blocks() const { return (quads() + phases() - 1) / phases(); }
    int64_t group() const { return inputs / groups; }
    const uint8_t* tile(int64_t index) const { return codes + index * blocks() * STEP_BYTES; }
    int level(int code) const { return levels ? levels[code] : bits == 8 ? static_cast<int8_t>(code) : code; }
};

// What is done with an output after its sum.
struct Finish {
    float* out;             // [rows][outputs]
    const float* residual;  // the same, or null
    bool relu;
};

// How an instruction set multiplies a weight: sum = step * raw + (offset - zero) * (the activations' sum).
struct Mode {
    bool wide = true;     // 16-bit operands, 2 inputs a step; else 8-bit, 4 inputs a step
    bool mapped = false;  // codes go through the table
    int flush = 0;        // steps whose products a 16-bit sum holds; 0: activations are the unsigned operand
    int step = 1, offset = 0;
    alignas(64) uint8_t table[256] = {};  // up to 4 bits: for each 16 bytes again, as shuffles want it

    void map(int bits, int code, int value) {
        for (int at = code; at < (bits == 8 ? 256 : 64); at += bits == 8 ? 256 : 16) table[at] = static_cast<uint8_t>(value);
    }
    int per_quad() const { return wide ? 2 : 1; }
};

// Signed operands: the levels themselves.
inline Mode wide_mode(const Weight& weight) {
    Mode mode;
    mode.mapped = weight.levels != nullptr;
    for (int code = 0; code < (1 << weight.bits); ++code) mode.map(weight.bits, code, weight.level(code));
    return mode;
}

// Unsigned operands: codes where the levels are evenly spaced, else levels above the lowest. `range` is the largest of them.
inline Mode unsigned_mode(const Weight& weight, int& range) {
    const int count = 1 << weight.bits;
    Mode mode;
    mode.wide = false;
    const int step = weight.level(1) - weight.level(0);
    bool even = weight.bits < 8;
    int lowest = weight.level(0), highest = lowest;
    for (int code = 0; code < count; ++code) {
        const int level = weight.level(code);
        even = even && level == weight.level(0) + step * code;
        lowest = std::min(lowest, level), highest = std::max(highest, level);
    }
    if (even) {
        mode.step = step, mode.offset = weight.level(0), range = count - 1;
        return mode;
    }
    mode.mapped = true;
    mode.offset = lowest, range = highest - lowest;
    for (int code = 0; code < count; ++code) mode.map(weight.bits, code, weight.level(code) - lowest);
    return mode;
}

}  // namespace modelmill::kernels
