// pair_table.h: (left id, right id) -> the id that they merge to, made small so that it stays near the processor.
#pragma once

#include <algorithm>
#include <array>
#include <bit>

#include "types.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace bpetok {

inline constexpr unsigned kIdBits = 24;
inline constexpr Id kNoPart = (1u << kIdBits) - 1;  // in place of an id: nothing is there; it merges with nothing
inline constexpr Id kMaxId = kNoPart - 1;           // a hostile file must not name a huge one: tables are by id

// Eight pairs to a cache line. A pair of ids is mixed, without loss, to 48 bits: some of them choose the line, 32 are
// the entry's tag and the others stand above the merged id. So a pair takes eight bytes, and looking one up touches one
// line, mostly.
class PairTable {
  public:
    // Holds up to `most` pairs.
    explicit PairTable(std::size_t most)
        : lines_(std::bit_ceil(std::max<std::size_t>(most / 6, kLeastLines)), empty_line()),
          line_bits_(static_cast<unsigned>(std::countr_zero(lines_.size()))) {}

    // Where a pair is looked for. Requires: ids are at most kNoPart.
    struct Place {
        std::size_t line;
        std::uint32_t tag;
        std::uint32_t rest;  // what of the pair is in neither
    };
    Place place_of(Id left, Id right) const {
        std::uint64_t mixed = static_cast<std::uint64_t>(left) << kIdBits | right;
        mixed = mixed * 0x9E3779B97F4A7C15 & kPairMask;  // odd factors and shifts to the right lose nothing
        mixed ^= mixed >> kIdBits;
        mixed = mixed * 0xD6E8FEB86659FD93 & kPairMask;
        const auto rest_bits = 2 * kIdBits - kTagBits - line_bits_;
        return {mixed >> (2 * kIdBits - line_bits_), static_cast<std::uint32_t>(mixed >> rest_bits),
                static_cast<std::uint32_t>(mixed & ((1u << rest_bits) - 1))};
    }

    void prefetch(const Place& place) const { __builtin_prefetch(&lines_[place.line]); }

    // What the pair merges to, kNoId if it does not. Free of branches but for what is rare.
    Id get(const Place& place) const {
        const Line& line = lines_[place.line];
        const unsigned matches = matches_of(line, place.tag);
        const std::uint32_t value = line.values[std::countr_zero(matches | 1u << (kEntries - 1))];
        const bool found = (matches != 0) & (value >> kIdBits == place.rest);
        const bool may_be_elsewhere = (matches != 0) | (line.values.back() != kFree);
        if (!found & may_be_elsewhere) [[unlikely]]
            return search(place);
        return found ? value & kNoPart : kNoId;
    }

    // Requires: the pair is not here, there is room, ids are at most kMaxId.
    void insert(Id left, Id right, Id merged) {
        const Place place = place_of(left, right);
        for (std::size_t at = place.line;; at = next(at)) {
            Line& line = lines_[at];
            const auto free = std::find(line.values.begin(), line.values.end(), kFree);
            if (free == line.values.end()) continue;
            *free = place.rest << kIdBits | merged;
            line.tags[static_cast<std::size_t>(free - line.values.begin())] = place.tag;
            return;
        }
    }

  private:
    static constexpr std::size_t kEntries = 8, kTagBits = 32;
    static constexpr std::uint64_t kPairMask = (std::uint64_t{1} << 2 * kIdBits) - 1;
    static constexpr std::size_t kLeastLines = 512;  // so that at most 7 bits are left for an entry's rest
    static constexpr std::uint32_t kFree = ~0u;      // in `values`; a value's highest bit is 0

    struct alignas(64) Line {
        std::array<std::uint32_t, kEntries> tags, values;  // values: the rest, and the merged id below it
    };
    static constexpr Line empty_line() {
        Line line{};
        line.values.fill(kFree);
        return line;
    }

    std::size_t next(std::size_t line) const { return (line + 1) & (lines_.size() - 1); }

    // Bit i: entry i has the tag, or is free.
    static unsigned matches_of(const Line& line, std::uint32_t tag) {
#if defined(__SSE2__)
        const auto* tags = reinterpret_cast<const __m128i*>(line.tags.data());
        const __m128i wanted = _mm_set1_epi32(static_cast<int>(tag));
        const __m128i low = _mm_cmpeq_epi32(_mm_load_si128(tags), wanted);
        const __m128i high = _mm_cmpeq_epi32(_mm_load_si128(tags + 1), wanted);
        return static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(low)) | _mm_movemask_ps(_mm_castsi128_ps(high))
                                                                                  << 4);
#else
        unsigned matches = 0;
        for (std::size_t i = 0; i < kEntries; ++i) matches |= static_cast<unsigned>(line.tags[i] == tag) << i;
        return matches;
#endif
    }

    // The same as `get`, entry by entry.
    Id search(const Place& place) const {
        for (std::size_t at = place.line;; at = next(at)) {
            const Line& line = lines_[at];
            for (std::size_t i = 0; i < kEntries; ++i)
                if (line.tags[i] == place.tag && line.values[i] >> kIdBits == place.rest)
                    return line.values[i] & kNoPart;
            if (line.values.back() == kFree) return kNoId;
        }
    }

    std::vector<Line> lines_;
    unsigned line_bits_;
};

}  // namespace bpetok
