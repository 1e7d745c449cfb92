// long_merge.h: the merging of long pretokens, window by window. Slow twin: `merge_pretoken` in reference.py.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "id_buffer.h"
#include "merges.h"

namespace bpetok {

// Merges text of any length, at about the cost of merging it in parts. Serves one thread at a time.
//
// Tokens are what merging a text leaves if each two neighbours are what merging the bytes of these two leaves, since
// the first merge across a border would also be made if nothing but the two tokens beside it were there. So a window
// is merged by itself, from the last token kept on. If that token comes out again, it and what follows it have been
// left by one merging, and the border between them is proven. If another comes out, the last token kept was wrong: it
// is given up, with what stands before it on a quarter of the window, and the window grows.
class LongMerger {
  public:
    explicit LongMerger(const MergeTable& table) : table_(table) {}

    // Appends the ids that merging leaves. Time: linear, as long as the longest token, and the longest chain of merges
    // that depend on what follows, are short beside the text; else O(n log n).
    void merge(Bytes text, IdBuffer& ids);

    // Gives back what a long window has taken.
    void tidy() { unknown_ = {}; }

  private:
    // A window met before, so that a text that repeats itself is merged once.
    struct Known {
        std::string bytes;
        std::vector<Id> ids;
    };
    struct Sure {
        std::size_t count, last_begin;
    };

    std::size_t step_back(IdBuffer& ids, std::size_t before, std::size_t begin, std::size_t bytes) const;
    Sure sure_part(std::span<const Id> tokens, std::size_t end) const;
    std::size_t window_from(Id token) const;
    std::span<const Id> merge_window(Bytes window);
    std::span<const Id> merge_into(std::vector<Id>& ids, Bytes window) const;

    const MergeTable& table_;
    std::vector<Known> known_;
    std::vector<Id> unknown_;
};

}  // namespace bpetok
