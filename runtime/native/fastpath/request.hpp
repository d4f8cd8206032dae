// The usual request: {"id": "...", "inputs": [{"name", "datatype", "shape", "data": [flat numbers]}, ...]}, in any order
// of the fields. Numbers go straight to where the batch is. Whatever is otherwise, wrong or only rare, ends the reading
// with false: the slow path can say what is wrong, and nothing is refused here.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "datatypes.hpp"
#include "numbers.hpp"

namespace modelmill {

struct Input {
    std::string name;
    std::string datatype;
    Kind kind;
    std::size_t size;              // bytes of an element
    std::vector<long long> inner;  // the shape without the batch
    std::size_t elements;          // of a row
};

struct Found {
    std::string_view id;  // with its quotes; empty where there is none
    std::size_t rows = 0;
    bool overflow = false;  // right so far, but there are more rows than fit
};

class Reader {
public:
    // `places[i]`: where rows of the input i go; so many of them fit.
    Reader(const std::vector<Input>& inputs, const std::vector<char*>& places, std::size_t room)
        : inputs_(inputs), places_(places), room_(room), given_(inputs.size(), false) {}

    bool operator()(std::string_view body, Found& found) {
        Cursor at{body.data(), body.data() + body.size()};
        bool inputs = false;
        const bool right = object(at, [&](std::string_view key) {
            if (key == "inputs" && !inputs) return inputs = true, all(at, found);
            if (key == "id" && found.id.empty()) return text(at, found.id, true);
            return false;
        });
        at.blank();
        return right && inputs && !at.more();
    }

private:
    // A string without escapes, of printable ASCII.
    static bool text(Cursor& at, std::string_view& value, bool quotes = false) {
        if (!at.skip('"')) return false;
        const char* start = at.at;
        while (at.more() && *at.at != '"') {
            if (*at.at < 0x20 || *at.at >= 0x7f || *at.at == '\\') return false;
            ++at.at;
        }
        const char* end = at.at;
        if (!at.skip('"')) return false;
        value = quotes ? std::string_view(start - 1, static_cast<std::size_t>(end - start) + 2)
                       : std::string_view(start, static_cast<std::size_t>(end - start));
        return true;
    }

    // `member` reads the value of each key.
    template <typename Member>
    static bool object(Cursor& at, Member&& member) {
        at.blank();
        if (!at.skip('{')) return false;
        do {
            std::string_view key;
            at.blank();
            if (!text(at, key)) return false;
            at.blank();
            if (!at.skip(':')) return false;
            at.blank();
            if (!member(key)) return false;
            at.blank();
        } while (at.skip(','));
        return at.skip('}');
    }

    template <typename Member>
    static bool list(Cursor& at, Member&& member) {
        if (!at.skip('[')) return false;
        do {
            at.blank();
            if (!member()) return false;
            at.blank();
        } while (at.skip(','));
        return at.skip(']');
    }

    bool all(Cursor& at, Found& found) {
        std::size_t count = 0;
        const bool right = list(at, [&] { return ++count <= inputs_.size() && one(at, found); });
        return right && count == inputs_.size();
    }

    bool one(Cursor& at, Found& found) {
        std::string_view name, datatype;
        shape_.clear();
        // Where there is one input its data may come before its name.
        std::size_t index = inputs_.size() == 1 ? 0 : inputs_.size();
        std::size_t values = 0;
        bool data = false;
        const bool right = object(at, [&](std::string_view key) {
            if (key == "name" && name.empty()) {
                if (!text(at, name)) return false;
                for (index = 0; index < inputs_.size() && inputs_[index].name != name; ++index) {
                }
                return index < inputs_.size() && !given_[index];
            }
            if (key == "datatype" && datatype.empty()) return text(at, datatype);
            if (key == "shape" && shape_.empty()) return sizes(at);
            if (key == "data" && !data) return data = true, index < inputs_.size() && numbers(at, index, values, found);
            return false;
        });
        if (!right || name.empty() || !data) return false;
        const Input& input = inputs_[index];
        if (datatype != input.datatype || shape_.size() != input.inner.size() + 1) return false;
        for (std::size_t i = 0; i < input.inner.size(); ++i)
            if (shape_[i + 1] != input.inner[i]) return false;
        const auto rows = static_cast<std::size_t>(shape_[0]);
        if (!rows || rows > MOST_ROWS || values != rows * input.elements || (found.rows && found.rows != rows)) return false;
        found.rows = rows;
        given_[index] = true;
        return true;
    }

    bool sizes(Cursor& at) {
        return list(at, [&] {
            std::uint32_t size;
            if (shape_.size() > inputs_[0].inner.size() + 8 || !read(at, size)) return false;
            shape_.push_back(size);
            return true;
        });
    }

    bool numbers(Cursor& at, std::size_t index, std::size_t& count, Found& found) {
        const Input& input = inputs_[index];
        return with_type(input.kind, [&](auto type) {
            char* place = places_[index];
            char* const end = place + room_ * input.elements * input.size;
            return list(at, [&] {
                auto value = type;
                if (!read(at, value)) return false;
                if (place == end) return found.overflow = true, false;
                std::memcpy(place, &value, sizeof value);
                place += sizeof value;
                ++count;
                return true;
            });
        });
    }

    static constexpr std::size_t MOST_ROWS = 1 << 20;
    const std::vector<Input>& inputs_;
    const std::vector<char*>& places_;
    std::size_t room_;
    std::vector<bool> given_;
    std::vector<long long> shape_;
};

}  // namespace modelmill
