#include "workspace.h"

#include <algorithm>
#include <bit>

namespace bpetok {
namespace {

// A slot with this many ids holds the place of more in the long cache.
constexpr std::size_t kManyIds = 15;

// Text of this size in one call pays for a cache that holds the vocabulary; shorter text is done before it is filled.
constexpr std::size_t kLargeText = 1 << 23;

// More bytes of room than this are not kept from call to call.
constexpr std::size_t kMostKept = 1 << 24;

// Half of a cache's memory is for short pretokens.
std::size_t short_slots(std::size_t bytes) { return std::bit_floor(bytes / 2 / sizeof(ShortCache::Slot) | 1); }

}  // namespace

Tables::Tables(const std::vector<Token>& tokens, MergeTable table, Pattern pattern, std::size_t bytes)
    : merges(std::move(table)), scan(pattern, tokens, merges.unreachable()), cache_bytes(bytes) {
    std::size_t total = 0;
    for (const Token& token : tokens) total += token.bytes.size();
    arena.reserve(total);  // so that the views into it stay valid
    for (const Token& token : tokens) {
        if (token.bytes.size() > PretokenKey::kMaxShort || merges.is_never_found(token.bytes)) continue;
        seeds.push_back({{arena.data() + arena.size(), token.bytes.size()}, token.id});
        arena += token.bytes;
    }
}

Workspace::Workspace(const Tables& tables)
    : tables_(tables),
      key_of_(process_seed()),
      short_(short_slots(tables.cache_bytes), key_of_),
      long_(tables.cache_bytes * 7 / 16),
      long_merger_(tables.merges) {}

void Workspace::expect(std::size_t bytes) {
    if (seeded_ || bytes < kLargeText || short_.most() < tables_.seeds.size() * 2) return;
    seeded_ = true;
    short_.reserve(short_.most());
    const char* end = tables_.arena.data() + tables_.arena.size();
    for (std::size_t begin = 0; begin < tables_.seeds.size(); begin += kScanChunk) {
        const std::size_t n = std::min(kScanChunk, tables_.seeds.size() - begin);
        const Token* seeds = tables_.seeds.data() + begin;
        for (std::size_t i = 0; i < n; ++i) {
            keys_[i] = key_of_(seeds[i].bytes.data(), seeds[i].bytes.size(), end);
            short_.prefetch(keys_[i].hash);
        }
        for (std::size_t i = 0; i < n; ++i)
            if (!short_.find(keys_[i])) short_.insert(keys_[i], {&seeds[i].id, 1}, 1);
    }
}

void Workspace::encode(Bytes text, IdBuffer& ids) {
    const Tier& tier = tier_in_use();
    const char* end = text.data() + text.size();
    for (Rest rest(text); rest.position < end;) {
        const std::size_t n = tier.scan(tables_.scan, rest, starts_.data());
        starts_[n] = rest.position;
        load_keys(n, end);
        emit(n, ids);
    }
}

std::size_t Workspace::count(Bytes text) {
    const Tier& tier = tier_in_use();
    const char* end = text.data() + text.size();
    std::size_t total = 0;
    for (Rest rest(text); rest.position < end;) {
        const std::size_t n = tier.scan(tables_.scan, rest, starts_.data());
        starts_[n] = rest.position;
        load_keys(n, end);
        total += count_chunk(n);
    }
    return total;
}

// Makes the chunk's keys, and asks for the memory that looking them up will touch.
[[gnu::noinline]] void Workspace::load_keys(std::size_t n, const char* end) {
    std::size_t longs = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const char* p = starts_[i];
        const auto length = static_cast<std::size_t>(starts_[i + 1] - p);
        PretokenKey& key = keys_[i];
        if (length <= PretokenKey::kMaxShort && end - p >= 16) [[likely]] {
            // Member by member: whoever copies the whole key at once waits for its parts to be stored.
            key.low = KeyMaker::low_of(p, length);
            key.high = KeyMaker::high_of(p, length);
            key.hash = key_of_.hash(key.low, key.high);
            short_.prefetch(key.hash);
            continue;
        }
        key = key_of_(p, length, end);
        if (key.is_long()) {
            long_.prefetch(key.hash);
            longs_[longs++] = static_cast<std::uint16_t>(i);
        } else {
            short_.prefetch(key.hash);
        }
    }
    for (std::size_t i = 0; i < longs; ++i) long_.prefetch_ids(keys_[longs_[i]].hash);
}

[[gnu::noinline]] void Workspace::emit(std::size_t n, IdBuffer& ids) {
    Id* out = ids.room((n + 1) * ShortCache::kMaxIds);
    bool merged = false;
    for (std::size_t i = 0; i < n; ++i) {
        const ShortCache::Slot* slot = short_.find(keys_[i]);
        if (!slot && !merged && is_missing(i)) [[unlikely]] {
            merged = true;
            slot = merge_missing(i, n);
        }
        if (slot && slot->count() != kManyIds) [[likely]] {
            std::memcpy(out, slot->ids, sizeof(slot->ids));
            out += slot->count();
            continue;
        }
        ids.extend_to(out);
        if (pretoken(i).size() > LongCache::kMaxBytes) {
            merge_long(pretoken(i), ids);
        } else {
            ids.append(resolve(keys_[i], pretoken(i)));
        }
        out = ids.room((n - i) * ShortCache::kMaxIds);
    }
    ids.extend_to(out);
}

[[gnu::noinline]] std::size_t Workspace::count_chunk(std::size_t n) {
    std::size_t total = 0;
    bool merged = false;
    for (std::size_t i = 0; i < n; ++i) {
        const ShortCache::Slot* slot = short_.find(keys_[i]);
        if (!slot && !merged && is_missing(i)) [[unlikely]] {
            merged = true;
            slot = merge_missing(i, n);
        }
        const bool known = slot && slot->count() != kManyIds;
        total += known ? slot->count() : resolve(keys_[i], pretoken(i)).size();
    }
    return total;
}

// Whether a pretoken of the chunk is in no cache though it may be.
bool Workspace::is_missing(std::size_t i) const {
    const Bytes text = pretoken(i);
    if (text.size() > kShortPretoken) return false;
    return keys_[i].is_long() ? !long_.find(keys_[i].hash, text).data : !short_.find(keys_[i]);
}

// Merges what the chunk holds of unknown pretokens, several at a time. Returns the slot of the first, if it has one.
[[gnu::noinline]] const ShortCache::Slot* Workspace::merge_missing(std::size_t from, std::size_t n) {
    if (tables_.cache_bytes == 0) return nullptr;
    std::array<std::uint16_t, kMergeGroup> group;
    std::size_t size = 0;
    for (std::size_t i = from; i < n; ++i) {
        if (!is_missing(i)) continue;
        group[size++] = static_cast<std::uint16_t>(i);
        if (size < group.size()) continue;
        merge_group(group);
        size = 0;
    }
    merge_group({group.data(), size});
    return short_.find(keys_[from]);
}

void Workspace::merge_group(std::span<const std::uint16_t> group) {
    std::array<Bytes, kMergeGroup> pretokens;
    for (std::size_t k = 0; k < group.size(); ++k) pretokens[k] = pretoken(group[k]);
    tables_.merges.encode_group({pretokens.data(), group.size()}, merged_group_.data());
    for (std::size_t k = 0; k < group.size(); ++k) {
        if (!is_missing(group[k])) continue;  // it stands twice in the group
        keep(keys_[group[k]], pretokens[k], {merged_group_[k].ids.data(), merged_group_[k].size});
    }
}

// The ids of a pretoken that the short cache does not hold; they last until the next call.
[[gnu::noinline]] Workspace::Ids Workspace::resolve(const PretokenKey& key, Bytes pretoken) {
    if (tables_.cache_bytes == 0 || pretoken.size() > LongCache::kMaxBytes) return merge(pretoken);
    LongCache::Ids known;
    if (key.is_long()) {
        known = long_.find(key.hash, pretoken);
    } else if (const ShortCache::Slot* slot = short_.find(key)) {
        known = long_.at({slot->ids[0], slot->ids[1], slot->ids[2]});
    }
    if (known.data) return {known.data, known.size};
    const Ids ids = merge(pretoken);
    keep(key, pretoken, ids);
    return ids;
}

// Puts a pretoken into the cache that is for it. Of a short one of many ids, the long cache has the ids, and the short
// one where they are.
void Workspace::keep(const PretokenKey& key, Bytes pretoken, Ids ids) {
    if (key.is_long()) return long_.insert(key.hash, pretoken, ids.data(), ids.size());
    if (ids.size() <= ShortCache::kMaxIds) return short_.insert(key, ids, ids.size());
    const LongCache::Place place = long_.add(ids.data(), ids.size());
    const std::array<Id, 3> words{place.begin, place.size, place.age};
    if (const ShortCache::Slot* slot = short_.find(key)) {
        short_.change(slot, words);
    } else {
        short_.insert(key, words, kManyIds);
    }
}

Workspace::Ids Workspace::merge(Bytes pretoken) {
    if (pretoken.size() > kShortPretoken) {
        long_ids_.clear();
        long_ids_.expect(pretoken.size());
        merge_long(pretoken, long_ids_);
        return {long_ids_.data(), long_ids_.size()};
    }
    const Id whole = tables_.merges.find_unreachable(pretoken);
    if (whole == kNoId) return {short_ids_.data(), tables_.merges.merge(pretoken, short_ids_.data())};
    short_ids_[0] = whole;
    return {short_ids_.data(), 1};
}

void Workspace::merge_long(Bytes pretoken, IdBuffer& ids) {
    const Id whole = tables_.merges.find_unreachable(pretoken);
    if (whole == kNoId) return long_merger_.merge(pretoken, ids);
    ids.append({&whole, 1});
}

Workspace::Ids Workspace::look_up(Bytes pretoken) {
    const PretokenKey key = key_of_(pretoken.data(), pretoken.size(), pretoken.data() + pretoken.size());
    const ShortCache::Slot* slot = short_.find(key);
    const bool known = slot && slot->count() != kManyIds;
    return known ? Ids{slot->ids, slot->count()} : resolve(key, pretoken);
}

void Workspace::tidy() {
    if (scratch_.capacity() > kMostKept) std::string().swap(scratch_);
    if (long_ids_.capacity() * sizeof(Id) > kMostKept) long_ids_ = {};
    long_merger_.tidy();
}

void Workspace::encode_pretoken(Bytes pretoken, IdBuffer& ids) {
    if (pretoken.size() > LongCache::kMaxBytes) {
        merge_long(pretoken, ids);
    } else {
        ids.append(look_up(pretoken));
    }
}

std::size_t Workspace::count_pretoken(Bytes pretoken) { return look_up(pretoken).size(); }

}  // namespace bpetok
