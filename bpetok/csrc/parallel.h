// parallel.h: the only file that knows threads. They start with a call and end with it, so none outlives a fork.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace bpetok {

// Calls work(i, thread) for each i below n, on up to `threads` threads, and waits for all of them. Thread t begins with
// t, t + threads, t + 2 * threads, ..., so that it meets the same ones when the call is made again, and then helps the
// others. If one throws, no new ones begin, and the first exception is thrown again here.
template <class Work>
void parallel_for(std::size_t n, std::size_t threads, Work&& work) {
    threads = std::max<std::size_t>(1, std::min(n, threads));
    std::vector<std::atomic<std::size_t>> taken(threads);  // of each thread's own
    std::atomic<bool> failed{false};
    std::exception_ptr failure;
    const auto run = [&](std::size_t thread) {
        try {
            for (std::size_t turn = 0; turn < threads; ++turn) {
                const std::size_t whose = (thread + turn) % threads;
                for (std::size_t i; !failed && (i = whose + threads * taken[whose]++) < n;) work(i, thread);
            }
        } catch (...) {
            if (!failed.exchange(true)) failure = std::current_exception();
        }
    };
    std::vector<std::jthread> helpers;
    for (std::size_t thread = 1; thread < threads; ++thread) helpers.emplace_back(run, thread);
    run(0);
    helpers.clear();  // joins
    if (failure) std::rethrow_exception(failure);
}

// Objects that threads make in any order, handed on in the order of their numbers, 0 to n - 1.
template <class T>
class InOrder {
  public:
    explicit InOrder(std::size_t n) : waiting_(n) {}

    // Takes object i. Then hands on, under a lock, the objects whose turn it is, until `use(T&)` gives false.
    template <class Use>
    void add(std::size_t i, T object, Use use) {
        const std::lock_guard guard(lock_);
        waiting_[i] = std::move(object);
        for (; next_ < waiting_.size() && waiting_[next_] && use(*waiting_[next_]); ++next_) waiting_[next_].reset();
    }

    // Hands on what is left. Requires: all objects were added.
    template <class Use>
    void finish(Use use) {
        for (; next_ < waiting_.size(); ++next_) use(*waiting_[next_]);
    }

  private:
    std::mutex lock_;
    std::vector<std::optional<T>> waiting_;
    std::size_t next_ = 0;
};

// Up to `most` objects that wait for the next call to borrow them. It has no lock, so that a fork finds none held. Who
// names the same place again gets the same object again, unless it is out.
template <class T, std::size_t most = 64>
class IdlePool {
  public:
    IdlePool() = default;
    IdlePool(const IdlePool&) = delete;
    IdlePool& operator=(const IdlePool&) = delete;
    ~IdlePool() { clear(); }

    // The object at the first place from `first` on that has one, nullptr if there is none.
    std::unique_ptr<T> take(std::size_t first = 0) {
        for (std::size_t i = 0; i < most; ++i) {
            std::atomic<T*>& place = places_[(first + i) % most];
            if (place.load(std::memory_order_relaxed) == nullptr) continue;
            if (T* object = place.exchange(nullptr)) return std::unique_ptr<T>(object);
        }
        return nullptr;
    }

    // Keeps an object at the first free place from `first` on, if there is one.
    void give(std::unique_ptr<T> object, std::size_t first = 0) {
        for (std::size_t i = 0; i < most; ++i) {
            T* none = nullptr;
            if (!places_[(first + i) % most].compare_exchange_strong(none, object.get())) continue;
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
