// Memory that a thread keeps between calls, and threads for work that is worth them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

namespace modelmill::kernels {

// One growing area for each thread: a call takes what it needs, everything is free again at the next call.
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(base_); }

    // Throws std::bad_alloc.
    void reserve(size_t bytes) {
        used_ = 0;
        if (bytes <= size_) return;
        std::free(base_);
        size_ = 0;
        base_ = static_cast<uint8_t*>(std::aligned_alloc(ALIGNMENT, rounded(bytes)));
        if (!base_) throw std::bad_alloc();
        size_ = rounded(bytes);
    }
    template <typename Value>
    Value* take(size_t count) {
        auto* taken = reinterpret_cast<Value*>(base_ + used_);
        used_ += rounded(count * sizeof(Value));
        return taken;
    }
    static size_t rounded(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }
    static Scratch& own() {
        static thread_local Scratch scratch;
        return scratch;
    }

private:
    static constexpr size_t ALIGNMENT = 64;
    uint8_t* base_ = nullptr;
    size_t size_ = 0, used_ = 0;
};

// Multiplications that pay for starting a thread (about 30 us).
constexpr int64_t WORTH_A_THREAD = 1 << 23;

inline int threads_for(int64_t multiplications, int allowed) {
    const int64_t worth = multiplications / WORTH_A_THREAD;
    return static_cast<int>(worth < 1 ? 1 : worth < allowed ? worth : allowed);
}

// Runs work(part) for parts 0..parts-1, the first here. No pool: it would not survive a fork. Rethrows nothing but what
// part 0 threw: the others are told of failure by `failed`.
template <typename Work>
void in_parts(int parts, const Work& work) {
    if (parts <= 1) return work(0);
    std::vector<std::thread> others;
    std::vector<char> done(static_cast<size_t>(parts), 0);
    for (int part = 1; part < parts; ++part) {
        try {
            others.emplace_back([&work, &done, part] {
                try {
                    work(part);
                    done[static_cast<size_t>(part)] = 1;
                } catch (...) {  // done again below, where it may be thrown
                }
            });
        } catch (...) {  // no thread to be had: done below
        }
    }
    work(0);
    for (std::thread& other : others) other.join();
    for (int part = 1; part < parts; ++part)
        if (!done[static_cast<size_t>(part)]) work(part);
}

}  // namespace modelmill::kernels
