// hash.h: one hash for byte strings, and a flat map from pairs of ids, both for the core's own tables.
#pragma once

#include <bit>
#include <cstring>

#include "types.h"

namespace bpetok {

// The two halves of the 128-bit product of two odd-mixed words, folded: every input bit reaches every output bit.
inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// The eight bytes at p.
inline std::uint64_t word_at(const char* p) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    return word;
}

inline std::uint64_t hash_bytes(Bytes bytes) {
    constexpr std::uint64_t kSeed = 0x9E3779B97F4A7C15, kFactor = 0xD6E8FEB86659FD93;
    std::uint64_t hash = kSeed ^ bytes.size();
    const char* p = bytes.data();
    std::size_t left = bytes.size();
    for (; left >= 8; left -= 8, p += 8) {
        hash = mix(hash ^ word_at(p), kFactor);
    }
    std::uint64_t word = 0;
    if (left > 0) std::memcpy(&word, p, left);
    return mix(hash ^ word, kFactor);
}

// (left id, right id) -> a 32-bit value. Open addressing, at most half full, no deletes.
class PairMap {
  public:
    explicit PairMap(std::size_t expected = 0) { resize(std::bit_ceil(expected * 2 + 16)); }

    static constexpr std::uint64_t key(Id left, Id right) { return static_cast<std::uint64_t>(left) << 32 | right; }

    // The value of a key, `otherwise` if it has none.
    std::uint32_t get(std::uint64_t key, std::uint32_t otherwise) const {
        const Slot& slot = slots_[place(key)];
        return slot.holds(key) ? slot.value : otherwise;
    }

    // The value of a key, nullptr if it has none. The pointer lasts until the next insert.
    std::uint32_t* find(std::uint64_t key) {
        Slot& slot = slots_[place(key)];
        return slot.holds(key) ? &slot.value : nullptr;
    }

    // Requires: the key has no value yet, and is not that of (kNoId, kNoId).
    void insert(std::uint64_t key, std::uint32_t value) {
        if ((size_ + 1) * 2 > slots_.size()) resize(slots_.size() * 2);
        slots_[place(key)] = {static_cast<Id>(key >> 32), static_cast<Id>(key), value};
        ++size_;
    }

  private:
    struct Slot {
        Id left = kNoId, right = kNoId;
        std::uint32_t value = 0;

        bool holds(std::uint64_t key) const { return PairMap::key(left, right) == key; }
        bool free() const { return left == kNoId && right == kNoId; }
    };

    std::size_t place(std::uint64_t key) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = mix(key ^ 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93) & mask;
        while (!slots_[i].holds(key) && !slots_[i].free()) i = (i + 1) & mask;
        return i;
    }

    void resize(std::size_t capacity) {
        std::vector<Slot> old(capacity);
        old.swap(slots_);
        for (const Slot& slot : old)
            if (!slot.free()) slots_[place(key(slot.left, slot.right))] = slot;
    }

    std::vector<Slot> slots_;
    std::size_t size_ = 0;
};

}  // namespace bpetok
