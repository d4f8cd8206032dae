// Convolutions as products of rows: an output pixel is a row of activations, whose inputs lie around it in the image.
#pragma once

#include <cstring>

#include "rows.hpp"

namespace modelmill::sparse {

// Of one sample, channels last; `top` and `left` are zeros around it, the sides' own are in `rows` and `columns`.
struct Geometry {
    Index samples, channels, height, width;
    Index kernel[2], stride[2], dilation[2];
    Index top, left, rows, columns;  // rows, columns: of the image with its border

    Index out(int side) const { return ((side ? columns : rows) - dilation[side] * (kernel[side] - 1) - 1) / stride[side] + 1; }
    bool fits() const {
        for (int side = 0; side < 2; ++side) {
            const Index size = side ? columns : rows, inner = side ? width : height, before = side ? left : top;
            if (kernel[side] < 1 || stride[side] < 1 || dilation[side] < 1 || before < 0 || inner < 1) return false;
            if (size < before + inner || dilation[side] * (kernel[side] - 1) >= size) return false;
        }
        return samples >= 0 && channels >= 1;
    }
};

// The images as int8 with their borders, one scale for each sample.
struct Image {
    std::vector<int8_t> values;
    std::vector<Index> pixels;  // where the row of an output pixel begins
    std::vector<float> scales;  // one for each output pixel
    std::vector<uint32_t> offsets;

    Image(const float* x, const Geometry& g, float given, bool avx2) : values(g.samples * g.rows * g.columns * g.channels) {
        const Index line = g.width * g.channels, row = g.columns * g.channels, pixels_of_one = g.out(0) * g.out(1);
        std::vector<int8_t> codes(g.height * line);
        pixels.reserve(g.samples * pixels_of_one);
        scales.reserve(g.samples * pixels_of_one);
        for (Index b = 0; b < g.samples; ++b) {
            std::fill(codes.begin(), codes.end(), 0);
            const float step =
                (avx2 ? quantize_avx2 : quantize_portable)(x + b * g.height * line, g.height * line, given, codes.data());
            const Index first = b * g.rows * row;
            for (Index y = 0; y < g.height; ++y)
                std::memcpy(values.data() + first + (g.top + y) * row + g.left * g.channels, codes.data() + y * line, line);
            for (Index y = 0; y < g.out(0); ++y)
                for (Index column = 0; column < g.out(1); ++column)
                    pixels.push_back(first + y * g.stride[0] * row + column * g.stride[1] * g.channels);
            scales.insert(scales.end(), pixels_of_one, step);
        }
        for (Index y = 0; y < g.kernel[0]; ++y)
            for (Index column = 0; column < g.kernel[1]; ++column)
                for (Index c = 0; c < g.channels; ++c)
                    offsets.push_back(static_cast<uint32_t>(y * g.dilation[0] * row + column * g.dilation[1] * g.channels + c));
    }
};

}  // namespace modelmill::sparse
