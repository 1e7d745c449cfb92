// documents.h: the ids of documents as shards hold them: end-of-text ids between, in the width of the file.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "types.h"

namespace bpetok {

// Where end-of-text ids stand at a document, or a part of one: bits.
inline constexpr std::uint8_t kBefore = 1, kAfter = 2;

// Writes the ids of each document, ids[offsets[i]] to ids[offsets[i + 1]], with the end-of-text ids that marks[i] asks
// for. Throws DataError unless the offsets are those of the ids and `out` has room for exactly what is written.
template <class Out>
void lay_out(std::span<const Id> ids, std::span<const std::int64_t> offsets, std::span<const std::uint8_t> marks,
             Id end_of_text, std::span<Out> out) {
    std::size_t marked = 0;
    for (const std::uint8_t mark : marks) marked += (mark & kBefore ? 1u : 0u) + (mark & kAfter ? 1u : 0u);
    if (offsets.size() != marks.size() + 1 || out.size() != ids.size() + marked)
        throw DataError("shards: there must be room for all ids and an offset more than documents");
    Out* place = out.data();
    std::size_t begin = 0;
    for (std::size_t i = 0; i < marks.size(); ++i) {
        const auto end = static_cast<std::size_t>(offsets[i + 1]);
        if (end < begin || end > ids.size()) throw DataError("shards: the offsets must be those of the ids");
        if (marks[i] & kBefore) *place++ = static_cast<Out>(end_of_text);
        for (std::size_t j = begin; j < end; ++j) *place++ = static_cast<Out>(ids[j]);
        if (marks[i] & kAfter) *place++ = static_cast<Out>(end_of_text);
        begin = end;
    }
    if (begin != ids.size()) throw DataError("shards: the offsets must be those of the ids");
}

// Where lines begin that begin with `start`, of those behind a "\n" that stands at or behind `from`. Lines are short,
// so going from one end of a line to the next is much faster than looking for all of `start`.
inline std::vector<std::int64_t> lines_that_begin_with(Bytes start, Bytes text, std::size_t from) {
    std::vector<std::int64_t> found;
    const char* const end = text.data() + text.size();
    const char* p = text.data() + std::min(from, text.size());
    while ((p = static_cast<const char*>(std::memchr(p, '\n', static_cast<std::size_t>(end - p)))) != nullptr) {
        ++p;
        if (static_cast<std::size_t>(end - p) < start.size()) break;
        if (std::memcmp(p, start.data(), start.size()) == 0) found.push_back(p - text.data());
    }
    return found;
}

}  // namespace bpetok
