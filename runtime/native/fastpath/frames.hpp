// HTTP/2's frames (RFC 9113) as far as native code reads and writes them: see modelmill/serve/http2/front.py and stream.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace modelmill {

constexpr std::size_t HEAD_BYTES = 9, UPDATE_BYTES = HEAD_BYTES + 4, PING_BYTES = HEAD_BYTES + 8;
constexpr std::uint32_t LARGEST = 0x7fffffff;  // of windows and stream numbers
constexpr unsigned DATA = 0, HEADERS = 1, PING = 6, WINDOW_UPDATE = 8;
constexpr unsigned ACK = 1, END_STREAM = 1, END_HEADERS = 4;

inline std::uint32_t number_at(const char* at) {
    const auto* byte = reinterpret_cast<const unsigned char*>(at);
    return std::uint32_t{byte[0]} << 24 | std::uint32_t{byte[1]} << 16 | std::uint32_t{byte[2]} << 8 | byte[3];
}

struct FrameHead {
    std::size_t size;
    unsigned kind, flags;
    std::uint32_t stream;

    static FrameHead at(const char* at) {
        return {number_at(at) >> 8, static_cast<unsigned char>(at[3]), static_cast<unsigned char>(at[4]), number_at(at + 5)};
    }

    char* write(char* at) const {
        const auto put = [&at](std::uint64_t value, int bytes) {
            while (bytes--) *at++ = static_cast<char>(value >> 8 * bytes);
        };
        put(size, 3), put(kind, 1), put(flags, 1), put(stream, 4);
        return at;
    }

    bool operator==(const FrameHead&) const = default;
};

// A whole request in the frames in which clients send small ones together.
struct Usual {
    std::uint32_t stream;
    std::string_view block;                // headers, compressed
    std::uint32_t window = 0, credit = 0;  // by how much the client opens the stream's window, and the connection's
    std::string_view body;
    std::size_t end;  // of the request
};

// False where `data` begins with anything else. The same as `usual` of modelmill/serve/http2/usual.py.
inline bool take_usual(std::string_view data, Usual& found) {
    if (data.size() < 2 * HEAD_BYTES + UPDATE_BYTES) return false;
    FrameHead head = FrameHead::at(data.data());
    const std::uint32_t stream = head.stream;
    std::size_t at = HEAD_BYTES + head.size;
    if (head.kind != HEADERS || head.flags != END_HEADERS || at + UPDATE_BYTES > data.size() || !stream || stream > LARGEST)
        return false;
    found = {.stream = stream, .block = data.substr(HEAD_BYTES, head.size), .body = {}, .end = 0};
    head = FrameHead::at(data.data() + at);
    if (head.kind == WINDOW_UPDATE) {
        found.window = number_at(data.data() + at + HEAD_BYTES);
        at += UPDATE_BYTES;
        if (head.size != 4 || head.stream != stream || at + HEAD_BYTES > data.size() || !found.window || found.window > LARGEST)
            return false;
        head = FrameHead::at(data.data() + at);
    }
    at += HEAD_BYTES;
    if (head.kind != DATA || head.flags != END_STREAM || head.stream != stream || head.size > data.size() - at) return false;
    found.body = data.substr(at, head.size);
    found.end = at + head.size;
    if (found.end + UPDATE_BYTES <= data.size() && FrameHead::at(data.data() + found.end) == FrameHead{4, WINDOW_UPDATE, 0, 0}) {
        found.credit = number_at(data.data() + found.end + HEAD_BYTES) & LARGEST;
        found.end += found.credit ? UPDATE_BYTES : 0;
    }
    return true;
}

}  // namespace modelmill
