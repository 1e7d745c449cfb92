#include "cache.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>
#include <utility>

#include "long_cache.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bpetok {
namespace {

constexpr std::size_t kLine = 64;  // bytes of a cache line
constexpr std::size_t kLargePage = 1 << 21;

void* align_up(void* p, std::size_t size) {
    const std::size_t behind = reinterpret_cast<std::uintptr_t>(p) % size;
    return behind == 0 ? p : static_cast<char*>(p) + (size - behind);
}

// Small tables come from the heap, large ones straight from the system.
bool is_large(std::size_t bytes) { return bytes >= kLargePage; }

constexpr std::size_t kFirstSlots = 512;
constexpr std::size_t kGrowth = 8;

}  // namespace

ZeroedMemory::ZeroedMemory(std::size_t bytes) : ZeroedMemory() {
#if defined(__linux__)
    if (is_large(bytes)) {
        // Large pages begin at multiples of their size. The page that is asked for besides is never touched.
        const std::size_t mapped = bytes + kLargePage;
        void* start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (start == MAP_FAILED) throw std::bad_alloc();
        owner_ = {start, Free{mapped}};
        data_ = align_up(start, kLargePage);
        madvise(data_, bytes, MADV_HUGEPAGE);  // advice: without it all is well, only slower
        return;
    }
#endif
    owner_.reset(std::calloc(bytes + kLine, 1));
    if (!owner_) throw std::bad_alloc();
    data_ = align_up(owner_.get(), kLine);
}

void ZeroedMemory::Free::operator()(void* data) const {
#if defined(__linux__)
    if (mapped > 0) {
        munmap(data, mapped);
        return;
    }
#endif
    std::free(data);
}

ShortCache::ShortCache(std::size_t most, KeyMaker key_of)
    : most_(std::max<std::size_t>(most, 2)), key_of_(key_of), slots_(nullptr), mask_(0) {
    reserve(std::min(most_, kFirstSlots));
}

void ShortCache::reserve(std::size_t slots) {
    slots = std::min(std::bit_ceil(slots), most_);
    const std::size_t before = slots_ ? mask_ + 1 : 0;
    if (slots <= before) return;
    const ZeroedMemory old = std::exchange(memory_, ZeroedMemory((slots + kWays - 1) * sizeof(Slot)));
    const Slot* old_slots = slots_;
    slots_ = memory_.as<Slot>();
    mask_ = slots - 1;
    used_ = 0;
    for (std::size_t i = 0; i < (before ? before + kWays - 1 : 0); ++i) {
        if (old_slots[i].high == 0) continue;
        const std::uint64_t high = old_slots[i].high & kKeyBits;
        put(old_slots[i], key_of_.hash(old_slots[i].low, high));
    }
}

// In the first free way, else in the one behind the place's own.
void ShortCache::put(const Slot& slot, std::uint64_t hash) {
    Slot* place = place_of(hash);
    std::size_t way = 0;
    while (way < kWays - 1 && place[way].high != 0) ++way;
    if (place[way].high != 0) way = 1;
    used_ += place[way].high == 0;
    place[way] = slot;
}

void ShortCache::insert(const PretokenKey& key, std::span<const Id> ids, std::size_t count) {
    const std::size_t slots = mask_ + 1;
    if (used_ * 2 > slots && slots < most_) reserve(slots * kGrowth);
    Slot slot{key.low, key.high | static_cast<std::uint64_t>(count) << 60, {}};
    std::copy(ids.begin(), ids.end(), slot.ids);
    put(slot, key.hash);
}

void ShortCache::change(const Slot* slot, std::span<const Id> ids) {
    std::copy(ids.begin(), ids.end(), slots_[slot - slots_].ids);
}

LongCache::LongCache(std::size_t most)
    : most_slots_(std::max<std::size_t>(std::bit_floor(most / 6 / sizeof(Slot)), kWays)),
      arena_ids_(std::clamp<std::size_t>((most - std::min(most, most_slots_ * sizeof(Slot))) / sizeof(Id), 512, kNoId)),
      slots_(std::min(most_slots_, kFirstSlots) * sizeof(Slot)),
      arena_(arena_ids_ * sizeof(Id)),
      mask_(std::min(most_slots_, kFirstSlots) - 1) {}

LongCache::Ids LongCache::find(std::uint64_t hash, Bytes pretoken) const {
    const Slot* place = place_of(hash);
    for (std::size_t way = 0; way < kWays; ++way) {
        const Slot& slot = place[way];
        if (slot.hash != (hash | 1) || slot.bytes != pretoken.size()) continue;
        const Id* ids = arena_.as<Id>() + slot.begin;
        if (std::memcmp(ids + slot.ids, pretoken.data(), pretoken.size()) == 0) return {ids, slot.ids};
    }
    return {};
}

void LongCache::insert(std::uint64_t hash, Bytes pretoken, const Id* ids, std::size_t n) {
    const std::size_t size = n + (pretoken.size() + sizeof(Id) - 1) / sizeof(Id);
    make_room(size);
    if (used_ * 2 > mask_ && mask_ + 1 < most_slots_) grow();
    Slot& slot = free_way(hash);
    used_ += slot.hash == 0;
    slot = {hash | 1, static_cast<std::uint32_t>(arena_used_), static_cast<std::uint16_t>(pretoken.size()),
            static_cast<std::uint16_t>(n)};
    Id* place = arena_.as<Id>() + arena_used_;
    std::copy(ids, ids + n, place);
    std::memcpy(place + n, pretoken.data(), pretoken.size());
    arena_used_ += size;
}

LongCache::Place LongCache::add(const Id* ids, std::size_t n) {
    make_room(n);
    std::copy(ids, ids + n, arena_.as<Id>() + arena_used_);
    const auto begin = static_cast<std::uint32_t>(std::exchange(arena_used_, arena_used_ + n));
    return {begin, static_cast<std::uint32_t>(n), age_};
}

// Room in the arena, if need be by forgetting all.
void LongCache::make_room(std::size_t size) {
    if (arena_used_ + size <= arena_ids_) return;
    std::memset(slots_.as<char>(), 0, (mask_ + 1) * sizeof(Slot));
    arena_used_ = used_ = 0;
    ++age_;
}

void LongCache::grow() {
    const std::size_t before = mask_ + 1;
    const std::size_t slots = std::min(before * kGrowth, most_slots_);
    const ZeroedMemory old = std::exchange(slots_, ZeroedMemory(slots * sizeof(Slot)));
    mask_ = slots - 1;
    used_ = 0;
    for (const Slot* slot = old.as<Slot>(); slot < old.as<Slot>() + before; ++slot) {
        if (slot->hash == 0) continue;
        Slot& place = free_way(slot->hash);
        used_ += place.hash == 0;
        place = *slot;
    }
}

// A free way of the place, else its last.
LongCache::Slot& LongCache::free_way(std::uint64_t hash) {
    Slot* place = place_of(hash);
    std::size_t way = 0;
    while (way < kWays - 1 && place[way].hash != 0) ++way;
    return place[way];
}

}  // namespace bpetok
