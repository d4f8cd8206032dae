// Heads of requests seen before. Heads that differ in their Content-Length alone are one: what else they mean was found
// out once, by the parser.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace modelmill {

// A head taken apart at the digits of its Content-Length.
struct Head {
    std::string_view before, after;
    std::size_t length = 0;  // of the body
    std::size_t size = 0;    // of the head, with the empty line
};

inline bool same_letters(std::string_view text, std::string_view lower) {
    for (std::size_t i = 0; i < lower.size(); ++i)
        if ((text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]) != lower[i]) return false;
    return true;
}

// False unless the message begins with a whole head that names its body's length once, in plain digits.
inline bool take_apart(std::string_view message, Head& head) {
    constexpr std::string_view NAME = "content-length:";
    constexpr std::size_t MOST_DIGITS = 7;
    bool found = false;
    for (std::size_t start = 0;;) {
        const std::size_t end = message.find("\r\n", start);
        if (end == std::string_view::npos) return false;
        if (end == start) {
            head.size = end + 2;
            if (!found) return false;
            head.after = message.substr(head.before.size(), head.size - head.before.size());
            while (!head.after.empty() && head.after[0] >= '0' && head.after[0] <= '9') head.after.remove_prefix(1);
            return true;
        }
        const std::string_view line = message.substr(start, end - start);
        if (line.size() > NAME.size() && same_letters(line, NAME)) {
            if (found) return false;
            found = true;
            std::size_t at = NAME.size();
            while (at < line.size() && line[at] == ' ') ++at;
            if (at == line.size() || line.size() - at > MOST_DIGITS) return false;
            head.before = message.substr(0, start + at);
            for (; at < line.size(); ++at) {
                if (line[at] < '0' || line[at] > '9') return false;
                head.length = head.length * 10 + static_cast<std::size_t>(line[at] - '0');
            }
        }
        start = end + 2;
    }
}

// In a time that does not tell where they differ: a head may hold a key.
inline bool same(std::string_view one, std::string_view other) {
    if (one.size() != other.size()) return false;
    unsigned char difference = 0;
    for (std::size_t i = 0; i < one.size(); ++i) difference |= static_cast<unsigned char>(one[i] ^ other[i]);
    return difference == 0;
}

// Each with the path that it asks.
class Heads {
public:
    const std::string* find(const Head& head) const {
        const std::string* found = nullptr;
        for (const auto& known : known_)
            if (same(known.before, head.before) && same(known.after, head.after)) found = &known.path;
        return found;
    }

    void learn(const Head& head, std::string path) {
        if (find(head)) return;
        // Clients choose them: where there are more, all are forgotten and learnt anew.
        if (known_.size() >= MOST) known_.clear();
        known_.push_back({std::string(head.before), std::string(head.after), std::move(path)});
    }

    void clear() { known_.clear(); }

private:
    static constexpr std::size_t MOST = 16;
    struct Known {
        std::string before, after, path;
    };
    std::vector<Known> known_;
};

}  // namespace modelmill
