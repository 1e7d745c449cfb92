// train.h: counts of pretokens -> merges. Slow twin: `BasicTokenizer.train` in reference.py.
#pragma once

#include <array>

#include "counts.h"
#include "types.h"

namespace bpetok {

struct Merge {
    Id left;
    Id right;
    Count count;  // occurrences of the pair when it merged
};

// Of each byte its place among all: the id that it has where pairs are equally frequent.
using ByteOrder = std::array<std::uint8_t, 256>;

// The first `merges` merges of byte-pair encoding: each time the pair that occurs most often (places that overlap
// count each), of equal ones that with the smallest left id, then the smallest right id. Merge i makes id 256 + i.
// Stops early when no pair occurs `min_count` times, or when `progress`, which is told how many were made, throws. The
// result does not depend on the order of the counts. Throws DataError if the distinct pretokens hold 2^32 bytes or
// more, or all of them together 2^63 pairs. Memory: about 20 bytes for each byte of distinct pretokens.
std::vector<Merge> train(const PretokenCounts& counts, std::size_t merges, Count min_count, const ByteOrder& order,
                         const Progress& progress);

}  // namespace bpetok
