// counts.h: how often each pretoken of a text occurs: all that training needs to know of it.
#pragma once

#include "pretokenize.h"
#include "types.h"

namespace bpetok {

// How often each distinct pretoken occurs. Counts of parts of a corpus merge, in any order, to those of the whole.
class PretokenCounts {
  public:
    PretokenCounts();

    // Counts a pretoken `times` more. Throws DataError if a count would leave 64 bits or fall under 1.
    void add(Bytes pretoken, Count times);

    // Counts every pretoken of a whole text.
    void add_text(Pattern pattern, Bytes text);

    // Counts the pretokens that no further text can change; returns how many bytes they cover.
    std::size_t add_stable(Pattern pattern, Bytes text);

    // Adds another table's counts. Throws DataError as `add` does; then this table holds a part of them.
    void merge(const PretokenCounts& other);

    struct Entry {
        Bytes pretoken;
        Count count;
    };
    const std::vector<Entry>& entries() const { return entries_; }  // in order of first occurrence
    Count total() const { return total_; }                          // pretokens, repeated ones each time

  private:
    std::size_t place(Bytes pretoken) const;
    void grow();
    Bytes keep(Bytes pretoken);

    std::vector<Entry> entries_;
    std::vector<std::size_t> slots_;  // hash -> index into entries_ plus one; 0 where free
    std::vector<std::string> arena_;  // blocks that never move once written
    Count total_ = 0;
};

}  // namespace bpetok
