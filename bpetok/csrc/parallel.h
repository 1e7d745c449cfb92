// parallel.h: the only file that knows threads. They start with a call and end with it, so none outlives a fork.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace bpetok {

// Runs work(0) to work(n - 1) on up to `threads` threads, in any order, and waits for all of them.
// If one throws, no new ones begin, and the first exception is thrown again here.
template <class Work>
void parallel_for(std::size_t n, std::size_t threads, Work&& work) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_lock;
    const auto run = [&] {
        try {
            for (std::size_t i = next++; i < n; i = next++) work(i);
        } catch (...) {
            next = n;
            const std::lock_guard guard(failure_lock);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::jthread> helpers;
    for (std::size_t i = 1; i < threads && i < n; ++i) helpers.emplace_back(run);
    run();
    helpers.clear();  // joins
    if (failure) std::rethrow_exception(failure);
}

}  // namespace bpetok
