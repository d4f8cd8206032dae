// A convolution: the linear product over windows of an NHWC image with a border of zeros, which stay where they are. Each
// sample has its own scale. Included inside a namespace: see sets.hpp.

template <typename Whole>
struct Samples {
    Whole* pixels;    // [samples][padded height][padded width][padded channels]
    float* scale;     // [samples]
    int32_t* totals;  // [samples][padded height][padded width]: sums over the channels, or null
};

// Whole pixels of one line of a sample. `values` points at its first channel.
template <typename Whole>
inline void quantize_line(const Image& image, const float* values, float inverse, Whole* out) {
    const int64_t channels = image.channels, padded = image.padded_channels(), plane = image.height * image.width;
    if (image.channels_last && channels == padded) return quantize(values, image.width * channels, inverse, out);
    for (int64_t x = 0; x < image.width; ++x, out += padded) {
        float pixel[PIXEL];
        for (int64_t first = 0; first < channels; first += PIXEL) {
            const int64_t count = std::min<int64_t>(PIXEL, channels - first);
            for (int64_t c = 0; c < count; ++c)
                pixel[c] = image.channels_last ? values[x * channels + first + c] : values[(first + c) * plane + x];
            quantize(pixel, count, inverse, out + first);
        }
        for (int64_t c = channels; c < padded; ++c) out[c] = 0;
    }
}

template <typename Whole>
inline void take_sample(const Image& image, const float* x, float fixed, int64_t index, const Samples<Whole>& samples) {
    const int64_t padded = image.padded_channels(), wide = image.padded_width();
    Whole* pixels = samples.pixels + index * image.padded_pixels() * padded;
    const Step step = step_of(x, image.sample(), fixed);
    samples.scale[index] = step.scale;
    const auto clear = [&](Whole* from, int64_t count) {
        std::memset(from, 0, static_cast<size_t>(count * padded) * sizeof(Whole));
    };
    clear(pixels, image.padding[0] * wide);
    for (int64_t y = 0; y < image.height; ++y) {
        Whole* line = pixels + (image.padding[0] + y) * wide * padded;
        clear(line, image.padding[1]);
        quantize_line(image, x + y * image.width * (image.channels_last ? image.channels : 1), step.inverse,
                      line + image.padding[1] * padded);
        clear(line + (image.padding[1] + image.width) * padded, image.padding[1]);
    }
    clear(pixels + (image.padding[0] + image.height) * wide * padded, image.padding[0] * wide);
    if (!samples.totals) return;
    int32_t* totals = samples.totals + index * image.padded_pixels();
    for (int64_t pixel = 0; pixel < image.padded_pixels(); ++pixel, pixels += padded) {
        if constexpr (sizeof(Whole) == 1) {
            totals[pixel] = sum_of(pixels, padded);
        } else {
            int32_t sum = 0;
            for (int64_t c = 0; c < padded; ++c) sum += pixels[c];
            totals[pixel] = sum;
        }
    }
}

// Where the operands of each step lie, from a window's first pixel on.
inline void window_offsets(const Image& image, int64_t pixel_bytes, int32_t* offsets) {
    for (int64_t y = 0; y < image.kernel[0]; ++y)
        for (int64_t x = 0; x < image.kernel[1]; ++x)
            for (int64_t byte = 0; byte < pixel_bytes; byte += 4)
                *offsets++ = static_cast<int32_t>(
                    (y * image.dilation[0] * image.padded_width() + x * image.dilation[1]) * pixel_bytes + byte);
}

// One line of outputs: its windows become rows `first`, `first` + 1, ...
template <typename Whole>
inline void take_line(const Image& image, const Weight& weight, const Samples<Whole>& samples, int64_t sample, int64_t y,
                      int64_t first, Rows& rows) {
    const int64_t width = image.out_width(), padded = image.padded_channels();
    const int64_t corner = sample * image.padded_pixels() + y * image.stride[0] * image.padded_width();
    for (int64_t x = 0; x < width; ++x) {
        rows.at[first + x] = reinterpret_cast<const uint8_t*>(samples.pixels + (corner + x * image.stride[1]) * padded);
        rows.scale[first + x] = samples.scale[sample];
    }
    if (!rows.sums) return;
    int32_t* __restrict sums = rows.sums + first * weight.groups;
    if (!samples.totals) {
        const int64_t length = weight.group() * static_cast<int64_t>(sizeof(Whole)) / 4;
        for (int64_t i = 0; i < width * weight.groups; ++i)
            sums[i] = sum_of_steps<Whole>(rows.at[first + i / weight.groups], rows.offsets + i % weight.groups * length, length);
        return;
    }
    for (int64_t x = 0; x < width; ++x) sums[x] = 0;
    for (int64_t tap = 0; tap < image.taps(); ++tap) {
        const int64_t down = tap / image.kernel[1] * image.dilation[0], right = tap % image.kernel[1] * image.dilation[1];
        const int32_t* totals = samples.totals + corner + down * image.padded_width() + right;
        if (image.stride[1] == 1)
            for (int64_t x = 0; x < width; ++x) sums[x] += totals[x];
        else
            for (int64_t x = 0; x < width; ++x) sums[x] += totals[x * image.stride[1]];
    }
}

template <typename Whole>
inline void conv_samples(const Weight& weight, const Mode& mode, const Image& image, const float* x, int64_t first, int64_t last,
                         int64_t tile, int64_t last_tile, float fixed, const Finish& finish) {
    const int64_t pixel_bytes = image.padded_channels() * static_cast<int64_t>(sizeof(Whole));
    const int64_t sample_bytes = image.padded_pixels() * (pixel_bytes + 4);
    const int64_t height = image.out_height(), width = image.out_width(), steps = image.taps() * pixel_bytes / 4;
    const int64_t block = std::clamp<int64_t>(BLOCK_BYTES / sample_bytes, 1, last - first);
    const int64_t lines = std::clamp<int64_t>(MOST_PIXELS / width, 1, block * height);
    const auto count = static_cast<size_t>(lines * width);
    const bool summed = needs_sums(weight, mode);
    Scratch& scratch = Scratch::own();
    scratch.reserve(area_bytes(lines * width) + static_cast<size_t>(block * (sample_bytes + 4) + 4 * steps) +
                    count * (12 + 4 * static_cast<size_t>(weight.groups)) + 10 * 64);
    const Area area = area_in(scratch, lines * width);
    Samples<Whole> samples{scratch.take<Whole>(static_cast<size_t>(block * image.padded_pixels() * image.padded_channels())),
                           scratch.take<float>(static_cast<size_t>(block)), nullptr};
    if (summed && weight.groups == 1) samples.totals = scratch.take<int32_t>(static_cast<size_t>(block * image.padded_pixels()));
    auto* offsets = scratch.take<int32_t>(static_cast<size_t>(steps));
    Rows rows{0, scratch.take<const uint8_t*>(count), scratch.take<float>(count), nullptr, offsets, steps};
    if (summed) rows.sums = scratch.take<int32_t>(count * static_cast<size_t>(weight.groups));
    window_offsets(image, pixel_bytes, offsets);
    for (int64_t from = first; from < last; from += block) {
        const int64_t taken = std::min(block, last - from);
        for (int64_t i = 0; i < taken; ++i) take_sample(image, x + (from + i) * image.sample(), fixed, i, samples);
        for (int64_t line = 0; line < taken * height; line += lines) {
            const int64_t end = std::min(taken * height, line + lines);
            rows.count = (end - line) * width;
            for (int64_t i = line; i < end; ++i)
                take_line(image, weight, samples, i / height, i % height, (i - line) * width, rows);
            const int64_t place = (from * height + line) * width * weight.outputs;
            const Finish part{finish.out + place, finish.residual ? finish.residual + place : nullptr, finish.relu};
            multiply(weight, mode, rows, tile, last_tile, area, part);
        }
    }
}

// x as `image` says, outputs [batch][height][width][outputs]. Throws std::bad_alloc.
inline void conv(const Weight& weight, const Image& image, const float* x, float fixed, int threads, const Finish& finish) {
    const Mode mode = mode_for(weight, x, image.batch * image.sample());
    const int64_t pixels = image.batch * image.out_height() * image.out_width();
    const int parts = threads_for(pixels * weight.outputs * weight.inputs, threads);
    in_parts(parts, [&](int part) {
        const bool by_sample = image.batch >= 2 * parts;
        const int64_t all = by_sample ? image.batch : weight.tiles(), from = all * part / parts, to = all * (part + 1) / parts;
        const int64_t first = by_sample ? from : 0, last = by_sample ? to : image.batch;
        const int64_t tile = by_sample ? 0 : from, last_tile = by_sample ? weight.tiles() : to;
        if (first == last || tile == last_tile) return;
        if (mode.wide)
            conv_samples<int16_t>(weight, mode, image, x, first, last, tile, last_tile, fixed, finish);
        else
            conv_samples<int8_t>(weight, mode, image, x, first, last, tile, last_tile, fixed, finish);
    });
}
