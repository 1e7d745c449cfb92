// train.h: text -> counts of pretokens -> merges. Slow twin: `BasicTokenizer.train` in reference.py.
#pragma once

#include <functional>

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

struct Merge {
    Id left;
    Id right;
    Count count;  // occurrences of the pair when it merged
};

// Called now and then with the number of merges made; may throw to stop the training.
using Progress = std::function<void(std::size_t)>;

// The first `merges` merges of byte-pair encoding: each time the pair that occurs most often (places that overlap
// count each), of equal ones that with the smallest left id, then the smallest right id. Merge i makes id 256 + i.
// Stops early when no pair occurs `min_count` times. The result does not depend on the order of the counts.
// Throws DataError if the distinct pretokens hold 2^32 bytes or more, or all of them together 2^63 pairs.
// Memory: about 20 bytes for each byte of distinct pretokens.
std::vector<Merge> train(const PretokenCounts& counts, std::size_t merges, Count min_count, const Progress& progress);

}  // namespace bpetok
