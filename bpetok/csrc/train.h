// train.h: distinct pretokens and their counts -> merges. Slow twin: `BasicTokenizer.train` in reference.py.
#pragma once

#include "counts.h"
#include "types.h"
#include "words.h"

namespace bpetok {

// Which of the pairs merges first that occur equally often.
enum class TieBreak {
    smallest_ids,    // the smallest left id, then the smallest right id, as the alphabet numbers them
    greatest_bytes,  // the left token whose bytes are the greatest, then the right one
    first_in_text,   // that which stands first, if pretokens were counted in the order of the text
};

struct TrainingRules {
    std::size_t merges = 0;  // at most
    Count min_count = 1;     // a pair that occurs less often does not merge
    std::size_t max_token_bytes = std::numeric_limits<std::size_t>::max();
    TieBreak tie_break = TieBreak::smallest_ids;
    std::function<bool(Bytes)> may_make = nullptr;  // asked for each token before it is made; may throw
    std::size_t memory_limit = std::numeric_limits<std::size_t>::max();  // in bytes, for the merging alone
};

struct Training {
    std::vector<Merge> merges;
    Count tokens = 0;  // that the text is made of in the end
};

// Byte-pair encoding of words over this alphabet: each time the pair merges that occurs most often (places that overlap
// count each). Stops early when no pair is left. `progress` is told how many merges were made, and may throw to end it.
// The result does not depend on the order of the words, but for `first_in_text`, which takes them as they were met.
// Throws MemoryLimitError. Memory: 12 to 60 bytes for each byte of distinct pretokens, mostly about 20.
Training train(Words words, const Alphabet& alphabet, const TrainingRules& rules, const Progress& progress);

}  // namespace bpetok
