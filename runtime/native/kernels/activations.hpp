// Float activations as whole numbers of -127..127 and their scale. Included inside a namespace: see sets.hpp.

typedef int32_t __attribute__((may_alias)) Bits;

struct Step {
    float scale, inverse;  // inverse 0: every value becomes 0
};

// `most` is the largest absolute value as bits, `fixed` the calibrated scale, or 0 for largest / 127. A scale of NaN where a
// value is not finite, so that the outputs are NaN too. The formulas are those of modelmill/kernels/reference.py, operation by
// operation.
inline Step step_for(int32_t most, float fixed) {
    if (most >= 0x7f800000) return {__builtin_nanf(""), 0};
    if (fixed > 0) return {fixed, 1 / fixed};
    float largest;
    std::memcpy(&largest, &most, sizeof largest);
    if (largest < SMALLEST) return {0, 0};
    return {largest / LARGEST, LARGEST / largest};
}

inline Step step_of(const float* values, int64_t count, float fixed) {
    const auto* bits = reinterpret_cast<const Bits*>(values);
    int32_t most = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t size = bits[i] & 0x7fffffff;  // in the order of the absolute values, NaN above infinity
        most = most > size ? most : size;
    }
    return step_for(most, fixed);
}

// Whether no value is below 0, as after ReLU.
inline bool positive(const float* values, int64_t count) {
    constexpr int64_t PIECE = 4096;
    for (int64_t first = 0; first < count; first += PIECE) {
        int32_t below = 0;
        for (int64_t i = first; i < std::min(count, first + PIECE); ++i) below |= values[i] < 0;
        if (below) return false;
    }
    return true;
}

template <typename Whole>
inline void quantize(const float* values, int64_t count, float inverse, Whole* out) {
    if (inverse == 0) {
        std::memset(out, 0, static_cast<size_t>(count) * sizeof(Whole));
        return;
    }
    int64_t i = rounded_vectors(values, count, inverse, out);
    for (; i < count; ++i) {
        float value = values[i] * inverse;
        value = value < -LARGEST ? -LARGEST : value;
        value = value > LARGEST ? LARGEST : value;
        out[i] = static_cast<Whole>(static_cast<int32_t>((value + ROUNDER) - ROUNDER));  // half to even
    }
}

// The sum of a row's activations over some steps, run by run.
template <typename Whole>
inline int32_t sum_of_steps(const uint8_t* row, const int32_t* offsets, int64_t steps) {
    int32_t sum = 0;
    for (int64_t step = 0; step < steps;) {
        int64_t end = step + 1;
        while (end < steps && offsets[end] == offsets[end - 1] + 4) ++end;
        const auto* values = reinterpret_cast<const Whole*>(row + offsets[step]);
        const int64_t count = (end - step) * 4 / static_cast<int64_t>(sizeof(Whole));
        if constexpr (sizeof(Whole) == 1) {
            sum += sum_of(values, count);
        } else {
            for (int64_t i = 0; i < count; ++i) sum += values[i];
        }
        step = end;
    }
    return sum;
}
