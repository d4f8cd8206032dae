// Numbers of JSON (RFC 8259, section 6): read correctly rounded, written as short as reads back the same.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

namespace modelmill {

struct Cursor {
    const char* at;
    const char* end;

    bool more() const { return at < end; }
    bool is(char wanted) const { return at < end && *at == wanted; }
    bool skip(char wanted) { return is(wanted) ? (++at, true) : false; }
    void blank() {
        while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) ++at;
    }
};

inline bool digit(const Cursor& cursor) { return cursor.more() && *cursor.at >= '0' && *cursor.at <= '9'; }

// A number's digits without sign, point and exponent, as far as 64 bits hold them.
struct Decimal {
    std::uint64_t digits = 0;
    int power = 0;  // of ten
    bool negative = false;
    bool whole = true;  // neither point nor exponent
    bool exact = true;  // all digits are in `digits`
};

inline void append(Decimal& number, char digit) {
    // 19 digits always fit.
    if (number.digits < 1'000'000'000'000'000'000u)
        number.digits = number.digits * 10 + static_cast<std::uint64_t>(digit - '0');
    else
        number.exact = false;
}

// False where the grammar ends: what stands there is no number.
inline bool scan(Cursor& cursor, Decimal& number) {
    number.negative = cursor.skip('-');
    if (!digit(cursor)) return false;
    if (!cursor.skip('0'))
        for (; digit(cursor); ++cursor.at) append(number, *cursor.at);
    if (cursor.skip('.')) {
        number.whole = false;
        if (!digit(cursor)) return false;
        for (; digit(cursor); ++cursor.at) append(number, *cursor.at), --number.power;
    }
    if (cursor.is('e') || cursor.is('E')) {
        ++cursor.at;
        number.whole = false;
        const bool down = cursor.skip('-');
        if (!down) cursor.skip('+');
        if (!digit(cursor)) return false;
        int exponent = 0;
        for (; digit(cursor); ++cursor.at)
            if (exponent < 10'000) exponent = exponent * 10 + (*cursor.at - '0');
        number.power += down ? -exponent : exponent;
    }
    return true;
}

inline constexpr double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// Whether an integer holds the text of a whole number.
template <typename Integer>
bool holds(const char* start, const char* stop) {
    Integer value;
    const auto [end, error] = std::from_chars(start, stop, value);
    return error == std::errc{} && end == stop;
}

// False too for what lies beyond a double's range, and for whole numbers beyond 64 bits, as in the slow path.
inline bool read(Cursor& cursor, double& value) {
    const char* start = cursor.at;
    Decimal number;
    if (!scan(cursor, number)) return false;
    if (number.whole && number.digits >= 1'000'000'000'000'000'000u &&
        !(number.negative ? holds<std::int64_t>(start, cursor.at) : holds<std::uint64_t>(start, cursor.at)))
        return false;
    // Both exact in a double, so that one operation rounds correctly (Clinger, "How to read floating point numbers accurately").
    if (number.exact && number.digits <= (1ull << 53) && number.power >= -22 && number.power <= 22) {
        const double digits = static_cast<double>(number.digits);
        const double size = number.power < 0 ? digits / POWERS[-number.power] : digits * POWERS[number.power];
        value = number.negative ? -size : size;
        return true;
    }
    const auto [end, error] = std::from_chars(start, cursor.at, value);
    return error == std::errc{} && end == cursor.at;
}

// By way of a double, as everywhere else in the server: the same text is the same number on every path.
inline bool read(Cursor& cursor, float& value) {
    double wide;
    if (!read(cursor, wide)) return false;
    value = static_cast<float>(wide);
    return true;
}

// False too for what is no integer of this type; 1.0 is one that the slow path knows.
template <typename Integer>
    requires std::is_integral_v<Integer>
bool read(Cursor& cursor, Integer& value) {
    const char* start = cursor.at;
    Decimal number;
    if (!scan(cursor, number) || !number.whole) return false;
    if (std::is_unsigned_v<Integer> && number.negative) return false;
    const auto [end, error] = std::from_chars(start, cursor.at, value);
    return error == std::errc{} && end == cursor.at;
}

// What JSON cannot say (NaN, infinities) becomes null, as in the slow path.
template <typename Number>
void write(std::string& text, Number value) {
    char digits[32];
    if constexpr (std::is_floating_point_v<Number>) {
        if (!std::isfinite(value)) {
            text += "null";
            return;
        }
    }
    const std::string_view written(digits,
                                   static_cast<std::size_t>(std::to_chars(digits, digits + sizeof digits, value).ptr - digits));
    text += written;
    // Typed clients tell 1.0 from 1.
    if (std::is_floating_point_v<Number> && written.find_first_of(".e") == std::string_view::npos) text += ".0";
}

}  // namespace modelmill
