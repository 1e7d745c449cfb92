// tiers.h: the parts of the core that are compiled once for each tier of instructions, and which tier is in use.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "types.h"

namespace bpetok {

class MergeTable;
class ScanTable;

// What is left of a text: [position, end), valid UTF-8.
struct Rest {
    explicit Rest(Bytes text)
        : pretoken(text.data()), position(text.data()), known_end(text.data()), end(text.data() + text.size()) {}

    const char* pretoken;  // where the pretoken at `position` begins: there, or before if that is a cut in it
    const char* position;
    const char* known_end;  // where it ends, if that is known; else not behind `position`
    const char* end;
};

inline constexpr std::size_t kScanChunk = 256;
inline constexpr std::size_t kScanRoom = kScanChunk + 64 + 8;

// The ids of a pretoken of up to kShortPretoken bytes.
inline constexpr std::size_t kShortPretoken = 64;
inline constexpr std::size_t kMergeGroup = 8;
struct Merged {
    std::array<Id, kShortPretoken> ids;
    std::size_t size;
};

struct Tier {
    const char* name;

    // Writes where the next pretokens begin, at least one and about kScanChunk of them, and moves rest.position to
    // where the last one ends. Returns their number. `starts` has room for kScanRoom. Requires: rest is not empty.
    std::size_t (*scan)(const ScanTable& table, Rest& rest, const char** starts);

    // Merges up to kMergeGroup pretokens of 1 to kShortPretoken bytes in turns, so that while one waits for memory the
    // others go on.
    void (*merge)(const MergeTable& table, std::span<const Bytes> pretokens, Merged* merged);
};

// The tiers that this machine has, the plainest first.
std::vector<Tier> tiers();

// The last of them, unless `use_tier` or the environment's BPETOK_TIER chose another.
const Tier& tier_in_use();

// Throws Error if this machine has no such tier.
void use_tier(Bytes name);

}  // namespace bpetok
