// long_cache.h: the ids of longer pretokens met before, as cache.h has the short ones.
#pragma once

#include "cache.h"

namespace bpetok {

// Pretokens of up to 255 bytes, and the ids of short ones that have many. When its arena is full, it forgets all.
class LongCache {
  public:
    static constexpr std::size_t kMaxBytes = 255;

    struct Ids {
        const Id* data = nullptr;  // nullptr: it is not here
        std::size_t size = 0;
    };

    // `most`: how many bytes it may take.
    explicit LongCache(std::size_t most);

    void prefetch(std::uint64_t hash) const { __builtin_prefetch(place_of(hash)); }
    // To be called when what `prefetch` asked for has come.
    void prefetch_ids(std::uint64_t hash) const { __builtin_prefetch(arena_.as<Id>() + place_of(hash)->begin); }

    Ids find(std::uint64_t hash, Bytes pretoken) const;
    // Requires: it is not here.
    void insert(std::uint64_t hash, Bytes pretoken, const Id* ids, std::size_t n);

    // Ids whose pretoken the caller knows: what to keep in order to find them, and they, nullptr once they are
    // forgotten.
    struct Place {
        std::uint32_t begin, size, age;
    };
    Place add(const Id* ids, std::size_t n);
    Ids at(Place place) const { return place.age == age_ ? Ids{arena_.as<Id>() + place.begin, place.size} : Ids{}; }

  private:
    struct Slot {
        std::uint64_t hash;   // of the pretoken, with the lowest bit set; 0 in a free slot
        std::uint32_t begin;  // in the arena: its ids, then its bytes
        std::uint16_t bytes;
        std::uint16_t ids;
    };

    static constexpr std::size_t kWays = 4;  // neighbouring slots that a pretoken may stand in

    Slot* place_of(std::uint64_t hash) const { return slots_.as<Slot>() + (hash >> 32 & mask_ & ~(kWays - 1)); }
    Slot& free_way(std::uint64_t hash);
    void grow();
    void make_room(std::size_t size);

    std::size_t most_slots_, arena_ids_;
    ZeroedMemory slots_, arena_;
    std::uint64_t mask_;
    std::size_t used_ = 0, arena_used_ = 0;
    std::uint32_t age_ = 0;  // so many times it has forgotten all
};

}  // namespace bpetok
