// cache.h: the ids of pretokens met before. A cache serves one thread at a time and stays within the size that it was
// given; what it has forgotten is merged anew, so it changes no ids.
#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <span>

#include "pretoken_key.h"
#include "types.h"

namespace bpetok {

// Memory that is zero at first and begins at a cache line. It is taken from the system as it is touched, in large pages
// where the system has them.
class ZeroedMemory {
  public:
    ZeroedMemory() : owner_(nullptr, Free{0}) {}
    explicit ZeroedMemory(std::size_t bytes);

    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }

  private:
    struct Free {
        std::size_t mapped;  // bytes; 0: it comes from the heap
        void operator()(void* data) const;
    };
    std::unique_ptr<void, Free> owner_;
    void* data_ = nullptr;
};

// Short pretokens and what they become: up to four ids, or what the caller keeps in their place. Each stands in the
// first free one of eight neighbouring slots; when they are taken, one is given up.
class ShortCache {
  public:
    static constexpr std::size_t kMaxIds = 4;

    struct alignas(32) Slot {
        std::uint64_t low;
        std::uint64_t high;  // as the key's, and the number of ids in bits 60 to 63; 0 in a free slot
        Id ids[kMaxIds];

        std::size_t count() const { return static_cast<std::size_t>(high >> 60); }
        bool holds(const PretokenKey& key) const { return ((low ^ key.low) | ((high ^ key.high) & kKeyBits)) == 0; }
    };

    // `most`: how many slots it may have, a power of two.
    ShortCache(std::size_t most, KeyMaker key_of);

    void prefetch(std::uint64_t hash) const { __builtin_prefetch(place_of(hash)); }

    const Slot* find(const PretokenKey& key) const {
        const Slot* place = place_of(key.hash);
        if (place->holds(key)) [[likely]]
            return place;
        for (std::size_t way = 1; way < kWays && place[way - 1].high != 0; ++way)
            if (place[way].holds(key)) return place + way;
        return nullptr;
    }

    // Requires: at most kMaxIds ids, or what the caller keeps in their place; a count of 1 to 15; the key is not here.
    // Void after it: every Slot* given before.
    void insert(const PretokenKey& key, std::span<const Id> ids, std::size_t count);

    // Other ids for a slot that `find` gave.
    void change(const Slot* slot, std::span<const Id> ids);

    // Makes room for `slots`, as far as allowed.
    void reserve(std::size_t slots);
    std::size_t most() const { return most_; }

  private:
    static constexpr std::size_t kWays = 8;
    static constexpr std::uint64_t kKeyBits = ~std::uint64_t{0} >> 4;

    Slot* place_of(std::uint64_t hash) const { return slots_ + (hash & mask_); }
    void put(const Slot& slot, std::uint64_t hash);

    std::size_t most_;
    KeyMaker key_of_;
    ZeroedMemory memory_;
    Slot* slots_;  // mask_ + 1, and some more so that the last place has all its ways
    std::uint64_t mask_;
    std::size_t used_ = 0;
};

}  // namespace bpetok
