// The Open Inference Protocol's datatypes that have one obvious form in JSON and a type in C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace modelmill {

enum class Kind { fp32, fp64, i8, i16, i32, i64, u8, u16, u32, u64 };

struct Datatype {
    std::string_view name;
    Kind kind;
    std::size_t size;
    char code;  // Python's, in its buffer protocol
};

inline constexpr Datatype DATATYPES[] = {
    {"FP32", Kind::fp32, 4, 'f'},  {"FP64", Kind::fp64, 8, 'd'},  {"INT8", Kind::i8, 1, 'b'},  {"INT16", Kind::i16, 2, 'h'},
    {"INT32", Kind::i32, 4, 'i'},  {"INT64", Kind::i64, 8, 'l'},  {"UINT8", Kind::u8, 1, 'B'}, {"UINT16", Kind::u16, 2, 'H'},
    {"UINT32", Kind::u32, 4, 'I'}, {"UINT64", Kind::u64, 8, 'L'},
};

inline const Datatype* datatype_of(std::string_view name) {
    for (const auto& each : DATATYPES)
        if (each.name == name) return &each;
    return nullptr;
}

// Calls `work` with a value of the kind's type, which tells that type and nothing else.
template <typename Work>
auto with_type(Kind kind, Work&& work) {
    switch (kind) {
        case Kind::fp64:
            return work(double{});
        case Kind::i8:
            return work(std::int8_t{});
        case Kind::i16:
            return work(std::int16_t{});
        case Kind::i32:
            return work(std::int32_t{});
        case Kind::i64:
            return work(std::int64_t{});
        case Kind::u8:
            return work(std::uint8_t{});
        case Kind::u16:
            return work(std::uint16_t{});
        case Kind::u32:
            return work(std::uint32_t{});
        case Kind::u64:
            return work(std::uint64_t{});
        default:
            return work(float{});
    }
}

}  // namespace modelmill
