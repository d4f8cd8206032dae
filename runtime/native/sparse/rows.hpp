// Rows of activations as int8: one scale for each row, largest / 127, or the one that is given.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#define MODELMILL_AVX2 __attribute__((target("avx2,fma")))

namespace modelmill::sparse {

using Index = long long;

// Instruction sets, each with those before it; results do not depend on them.
enum Level : int { PORTABLE, AVX2, VNNI };

// Rows of codes, padded with zeros to whole registers, and what one step of each row is worth.
struct Codes {
    Index stride = 0;
    std::vector<int8_t> values;
    std::vector<float> scales;

    Codes(Index rows, Index inputs) : stride((inputs + 31) / 32 * 32), values(rows * stride), scales(rows) {}
    const int8_t* row(Index m) const { return values.data() + m * stride; }
};

// A row that is not finite gets scale NaN and codes 0, so that its products are NaN: garbage would look like an answer.
__attribute__((always_inline)) inline float quantize_row(const float* x, Index inputs, float given, int8_t* codes) {
    // As integers, magnitudes order like floats, and whatever is not finite comes last.
    uint32_t largest = 0;
    for (Index k = 0; k < inputs; ++k) largest = std::max(largest, std::bit_cast<uint32_t>(x[k]) & 0x7fffffffu);
    if (largest >= 0x7f800000u) return std::numeric_limits<float>::quiet_NaN();
    const float step = given > 0 ? given : std::max(std::bit_cast<float>(largest) / 127.0f, std::numeric_limits<float>::min());
    for (Index k = 0; k < inputs; ++k) {
        const float code = std::min(std::max(x[k] / step, -127.0f), 127.0f);
        // Adding 1.5 * 2^23 rounds to the nearest whole number, ties to even, and leaves it in the low bits.
        codes[k] = static_cast<int8_t>(std::bit_cast<int32_t>(code + 12582912.0f) - 0x4b400000);
    }
    return step;
}

inline float quantize_portable(const float* x, Index inputs, float given, int8_t* codes) {
    return quantize_row(x, inputs, given, codes);
}
MODELMILL_AVX2 inline float quantize_avx2(const float* x, Index inputs, float given, int8_t* codes) {
    return quantize_row(x, inputs, given, codes);
}

inline Codes quantize(const float* x, Index rows, Index inputs, float given, bool avx2) {
    Codes codes(rows, inputs);
    for (Index m = 0; m < rows; ++m)
        codes.scales[m] =
            (avx2 ? quantize_avx2 : quantize_portable)(x + m * inputs, inputs, given, codes.values.data() + m * codes.stride);
    return codes;
}

// The exact sum as a float, in one order on every machine.
inline float scaled(int32_t sum, float scale, float row_scale, const float* bias, Index n) {
    const float product = static_cast<float>(sum) * scale * row_scale;
    return bias ? product + bias[n] : product;
}

}  // namespace modelmill::sparse
