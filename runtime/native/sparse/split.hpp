// Work cut over threads where there is enough of it.
#pragma once

#include <atomic>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "rows.hpp"

namespace modelmill::sparse {

constexpr double WORK = 4e6;  // products for which a thread is worth starting (some 20 us)

// Calls work(from, to) for parts of [0, count).
template <typename Work>
void split(Index count, double products, Index threads, const Work& work) {
    const Index parts = std::max<Index>(1, std::min({threads, count, static_cast<Index>(products / WORK)}));
    std::vector<std::thread> started;
    std::atomic<bool> fits = true;
    const auto guarded = [&](Index from, Index to) {
        try {
            work(from, to);
        } catch (const std::bad_alloc&) {
            fits = false;  // an exception must not leave a thread
        }
    };
    for (Index part = 1; part < parts; ++part) {
        const Index from = count * part / parts, to = count * (part + 1) / parts;
        try {
            started.emplace_back([&guarded, from, to] { guarded(from, to); });
        } catch (const std::system_error&) {
            guarded(from, to);  // no more threads to be had
        }
    }
    guarded(0, count / parts);
    for (auto& thread : started) thread.join();
    if (!fits) throw std::bad_alloc();
}

}  // namespace modelmill::sparse
