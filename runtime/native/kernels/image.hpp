// A convolution's geometry, the same for every instruction set.
#pragma once

#include <cstdint>

namespace modelmill::kernels {

struct Image {
    int64_t batch, channels, height, width;
    int64_t kernel[2], stride[2], padding[2], dilation[2];
    bool channels_last;  // else channels come before height and width

    int64_t out_height() const { return (height + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) / stride[0] + 1; }
    int64_t out_width() const { return (width + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) / stride[1] + 1; }
    int64_t padded_channels() const { return (channels + 3) / 4 * 4; }
    int64_t padded_height() const { return height + 2 * padding[0]; }
    int64_t padded_width() const { return width + 2 * padding[1]; }
    int64_t padded_pixels() const { return padded_height() * padded_width(); }
    int64_t sample() const { return channels * height * width; }
    int64_t taps() const { return kernel[0] * kernel[1]; }
};

}  // namespace modelmill::kernels
