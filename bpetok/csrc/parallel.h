// parallel.h: the only file that knows threads. They start with a call and end with it, so none outlives a fork.
#pragma once

#include <array>
#include <atomic>
#include <exception>
#include <memory>
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

// Up to `most` objects that wait for the next call to borrow them. It has no lock, so that a fork finds none held.
template <class T, std::size_t most = 64>
class IdlePool {
  public:
    IdlePool() = default;
    IdlePool(const IdlePool&) = delete;
    IdlePool& operator=(const IdlePool&) = delete;
    ~IdlePool() { clear(); }

    // One of them, nullptr if there is none.
    std::unique_ptr<T> take() {
        for (std::atomic<T*>& place : places_) {
            if (place.load(std::memory_order_relaxed) == nullptr) continue;
            if (T* object = place.exchange(nullptr)) return std::unique_ptr<T>(object);
        }
        return nullptr;
    }

    // Keeps an object if there is a place for it.
    void give(std::unique_ptr<T> object) {
        for (std::atomic<T*>& place : places_) {
            T* none = nullptr;
            if (!place.compare_exchange_strong(none, object.get())) continue;
            static_cast<void>(object.release());
            return;
        }
    }

    void clear() {
        for (std::atomic<T*>& place : places_) delete place.exchange(nullptr);
    }

  private:
    std::array<std::atomic<T*>, most> places_{};
};

// A pointer that threads may read while another changes it.
template <class T>
using SharedPointer = std::atomic<T*>;

}  // namespace bpetok
