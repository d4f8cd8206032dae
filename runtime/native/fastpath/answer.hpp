// The usual answer: all outputs in JSON, as one HTTP/1.1 message, put together from what never changes and the numbers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "datatypes.hpp"
#include "numbers.hpp"

namespace modelmill {

struct Output {
    std::string opening;  // up to the shape
    Kind kind;
    std::size_t size;  // bytes of an element
    char code;
};

// One output of a whole batch.
struct Values {
    const char* data;
    std::vector<long long> inner;  // the shape without the batch
    std::size_t elements;          // of a row
};

class Answers {
public:
    // Appends the document for `rows` rows from the row `first` on.
    void body(std::string& text, std::string_view id, std::size_t first, std::size_t rows,
              const std::vector<Values>& values) const {
        text += opening;
        if (!id.empty()) text.append(",\"id\":").append(id);
        text += ",\"outputs\":[";
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const Output& output = outputs[i];
            text.append(output.opening);
            write(text, static_cast<long long>(rows));
            for (const long long size : values[i].inner) text += ',', write(text, size);
            text += "],\"data\":[";
            const std::size_t count = rows * values[i].elements;
            const char* data = values[i].data + first * values[i].elements * output.size;
            with_type(output.kind, [&](auto value) {
                for (std::size_t k = 0; k < count; ++k) {
                    if (k) text += ',';
                    std::memcpy(&value, data + k * sizeof value, sizeof value);
                    write(text, value);
                }
            });
            text += i + 1 < outputs.size() ? "]}," : "]}";
        }
        text += "]}";
    }

    static std::string head(std::size_t length) {
        return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(length) + "\r\nContent-Type: application/json\r\n\r\n";
    }

    std::string opening;  // {"model_name": ..., "model_version": ...  without the closing brace
    std::vector<Output> outputs;
};

}  // namespace modelmill
