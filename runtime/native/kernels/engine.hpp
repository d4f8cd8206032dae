// Rows of activations times a weight's tiles. Included inside a namespace: see sets.hpp.

// Of as many tiles as are multiplied together (TILES).
struct Area {
    uint8_t* panel;  // [tiles][PANEL_BYTES]
    int32_t* sums;   // [tiles][rows][16]
    float* totals;   // [tiles][rows][16]
    int64_t apart;   // rows * 16
};

// How `weight` is multiplied with these activations where more than a few rows come.
inline Mode mode_for(const Weight& weight, const float* x, int64_t count) {
    Mode mode = mode_of(weight);
    if (POSITIVE && mode.wide && positive(x, count)) mode.wide = false;
    return mode;
}

inline bool needs_sums(const Weight& weight, const Mode& mode) { return weight.zero || mode.offset != 0; }

inline size_t area_bytes(int64_t rows) { return TILES * (PANEL_BYTES + 2 * 64 * static_cast<size_t>(rows)) + 3 * 64; }
inline Area area_in(Scratch& scratch, int64_t rows) {
    const auto apart = static_cast<size_t>(TILE * rows);
    return {scratch.take<uint8_t>(TILES * PANEL_BYTES), scratch.take<int32_t>(TILES * apart), scratch.take<float>(TILES * apart),
            static_cast<int64_t>(apart)};
}

// Steps [first, last) of some rows, whose panels lie there. Groups that end are folded, unless there is one only.
inline void steps_of(const Weight& weight, const Mode& mode, int64_t tile, int tiles, const Rows& rows, int64_t row, int count,
                     int64_t first, int64_t last, const Area& area) {
    const int64_t length = weight.groups == 1 ? rows.steps : weight.group() / 4 * mode.per_quad();
    int32_t* sums = area.sums + row * TILE;
    for (int64_t step = first; step < last;) {
        const int64_t group = step / length, end = std::min(last, (group + 1) * length);
        product(tiles, count, mode, area.panel + (step - first) * STEP_BYTES, rows.at + row, rows.offsets + step, end - step,
                sums, area.apart);
        for (int own = 0; own < tiles && weight.groups > 1 && end == (group + 1) * length; ++own)
            fold(weight, mode, tile + own, group, rows, row, count, sums + own * area.apart,
                 area.totals + own * area.apart + row * TILE);
        step = end;
    }
}

inline void finish_tiles(const Weight& weight, const Mode& mode, int64_t tile, int tiles, const Rows& rows, int64_t row,
                         int count, const Area& area, const Finish& finish) {
    for (int own = 0; own < tiles; ++own) {
        const int64_t at = own * area.apart + row * TILE;
        if (weight.groups == 1)
            finish_tile(weight, tile + own, rows, row, count, Integers(weight, mode, tile + own, area.sums + at), finish);
        else
            finish_tile(weight, tile + own, rows, row, count, Floats{area.totals + at}, finish);
    }
}

// Asks for the codes of the next piece while this one is multiplied, a share with each few rows: decoding would wait for the
// memory.
class Ahead {
public:
    Ahead(const Weight& weight, int64_t tile, int64_t last_tile, const Rows& rows, int64_t step) : rows_(rows.count) {
        if (weight.tiles() * weight.blocks() * STEP_BYTES < WORTH_ASKING) return;
        const bool more = step < rows.steps;
        const int64_t next = more ? tile : tile + TILES, quad = more ? step * weight.quads() / rows.steps : 0;
        tiles_ = std::min<int64_t>(TILES, last_tile - next);
        apart_ = weight.blocks();
        at_ = weight.codes + (next * apart_ + quad / weight.phases()) * STEP_BYTES;
        lines_ = std::min<int64_t>(PANEL_STEPS, weight.quads() - quad) / weight.phases();
    }
    // Inlined: GCC 12 leaves out calls of a function that does nothing but this.
    __attribute__((always_inline)) void ask(int64_t row, int count) const {
        for (int64_t own = 0; own < tiles_; ++own)
            for (int64_t line = lines_ * row / rows_; line < lines_ * (row + count) / rows_; ++line)
                __builtin_prefetch(at_ + (own * apart_ + line) * STEP_BYTES);
    }

private:
    int64_t rows_, tiles_ = 0, apart_ = 0, lines_ = 0;
    const uint8_t* at_ = nullptr;
};

// Panel by panel: a piece of a tile, or of two, is decoded once and used for all rows.
inline void multiply(const Weight& weight, const Mode& mode, const Rows& rows, int64_t tile, int64_t last_tile, const Area& area,
                     const Finish& finish) {
    for (; tile < last_tile; tile += TILES) {
        const auto tiles = static_cast<int>(std::min<int64_t>(TILES, last_tile - tile));
        std::memset(area.sums, 0, static_cast<size_t>(TILES * area.apart) * sizeof(int32_t));
        if (weight.groups > 1) std::memset(area.totals, 0, static_cast<size_t>(TILES * area.apart) * sizeof(float));
        for (int64_t first = 0; first < rows.steps; first += PANEL_STEPS) {
            const int64_t last = std::min<int64_t>(rows.steps, first + PANEL_STEPS);
            for (int own = 0; own < tiles; ++own)
                decode(weight, mode, weight.tile(tile + own), first, last - first, area.panel + own * PANEL_BYTES);
            const Ahead ahead(weight, tile, last_tile, rows, last);
            for (int64_t row = 0; row < rows.count;) {
                const int64_t left = rows.count - row;
                const int count =
                    static_cast<int>(left >= 2 * ROWS || left <= ROWS ? std::min<int64_t>(ROWS, left) : (left + 1) / 2);
                ahead.ask(row, count);
                steps_of(weight, mode, tile, tiles, rows, row, count, first, last, area);
                if (last == rows.steps) finish_tiles(weight, mode, tile, tiles, rows, row, count, area, finish);
                row += count;
            }
        }
    }
}

// sums[count][16] += what up to 4 rows make with `blocks` of the tile's blocks of codes.
inline void stream(int count, const Weight& weight, const Mode& mode, const uint8_t* tile, const uint8_t* const* rows,
                   int64_t first, int64_t blocks, int32_t* sums) {
    if (count == 1) return stream_rows<1>(weight.bits, mode, tile, rows, first, blocks, sums);
    if (count == 2) return stream_rows<2>(weight.bits, mode, tile, rows, first, blocks, sums);
    if (count == 3) return stream_rows<3>(weight.bits, mode, tile, rows, first, blocks, sums);
    stream_rows<4>(weight.bits, mode, tile, rows, first, blocks, sums);
}

// Few rows: the codes are read once, from the file's memory, and nothing of them is written anywhere.
inline void multiply_few(const Weight& weight, const Mode& mode, const Rows& rows, int64_t tile, int64_t last_tile,
                         const Finish& finish) {
    const int64_t length = weight.groups == 1 ? weight.blocks() : weight.group() / 4 / weight.phases();
    for (; tile < last_tile; ++tile) {
        alignas(64) int32_t sums[4 * TILE] = {};
        alignas(64) float totals[4 * TILE] = {};
        for (int64_t group = 0; group < weight.groups; ++group) {
            stream(static_cast<int>(rows.count), weight, mode, weight.tile(tile), rows.at, group * length, length, sums);
            fold(weight, mode, tile, group, rows, 0, rows.count, sums, totals);
        }
        finish_tile(weight, tile, rows, 0, rows.count, Floats{totals}, finish);
    }
}
