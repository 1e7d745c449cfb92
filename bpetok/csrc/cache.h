// cache.h: the ids of pretokens met before. A cache serves one thread at a time and stays within the size that it was
// given; what it has forgotten is merged anew, so it changes no ids.
#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <span>

#include "hash.h"
#include "types.h"

namespace bpetok {

// What a pretoken is looked up by. Up to 15 bytes are the key themselves, longer ones are known by their hash.
struct PretokenKey {
    static constexpr std::size_t kMaxShort = 15;
    static constexpr std::uint64_t kLong = ~std::uint64_t{0};

    std::uint64_t low;   // bytes 0 to 7; of a long pretoken its hash
    std::uint64_t high;  // bytes 8 to 14, the length in bits 56 to 59; of a long pretoken kLong
    std::uint64_t hash;

    bool is_long() const { return high == kLong; }
};

// Makes keys. The seed makes hashes unforeseeable.
class KeyMaker {
  public:
    explicit KeyMaker(std::uint64_t seed) : seed_(seed | 1) {}

    // Requires: 0 < length; bytes up to `end` may be read.
    PretokenKey operator()(const char* p, std::size_t length, const char* end) const {
        if (length > PretokenKey::kMaxShort) return of_long({p, length});
        char copy[16] = {};
        if (end - p < 16) [[unlikely]] {
            std::memcpy(copy, p, length);
            p = copy;
        }
        const std::uint64_t low = low_of(p, length), high = high_of(p, length);
        return {low, high, hash(low, high)};
    }

    // The parts of a short pretoken's key. Requires: 16 bytes may be read.
    static std::uint64_t low_of(const char* p, std::size_t length) { return word_at(p) & kMasks[length].low; }
    static std::uint64_t high_of(const char* p, std::size_t length) {
        return (word_at(p + 8) & kMasks[length].high) | static_cast<std::uint64_t>(length) << 56;
    }

    // The hash of a short pretoken's key.
    std::uint64_t hash(std::uint64_t low, std::uint64_t high) const { return mix(low ^ seed_, high ^ kFactor); }

  private:
    static constexpr std::uint64_t kFactor = 0xD6E8FEB86659FD93;
    struct Mask {
        std::uint64_t low, high;
    };
    // By length: the bits of a key's bytes.
    static constexpr std::array<Mask, 16> kMasks = [] {
        std::array<Mask, 16> masks{};
        for (std::size_t n = 1; n < 16; ++n) {
            masks[n].low = ~std::uint64_t{0} >> (n < 8 ? 64 - 8 * n : 0);
            masks[n].high = n > 8 ? ~std::uint64_t{0} >> (128 - 8 * n) : 0;
        }
        return masks;
    }();

    PretokenKey of_long(Bytes bytes) const {
        std::uint64_t hash = seed_ ^ bytes.size();
        const auto add = [&hash](const char* p) { hash = mix(hash ^ word_at(p), kFactor ^ word_at(p + 8)); };
        for (std::size_t i = 0; i + 16 < bytes.size(); i += 16) add(bytes.data() + i);
        add(bytes.data() + bytes.size() - 16);
        return {hash, PretokenKey::kLong, hash};
    }

    std::uint64_t seed_;
};

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
