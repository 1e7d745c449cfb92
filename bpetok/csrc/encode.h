// encode.h: text -> ids. Slow twin: `RegexTokenizer.encode_ordinary` in reference.py.
#pragma once

#include <span>

#include "merges.h"
#include "pretokenize.h"
#include "types.h"

namespace bpetok {

// The ids of many texts, one behind the other: text i has ids[offsets[i]] to ids[offsets[i + 1]].
struct Batch {
    std::vector<Id> ids;
    std::vector<std::int64_t> offsets;
};

// Encodes text with one vocabulary and one pattern. Immutable, so any thread may use it. Special tokens are no
// business of this class: in text they are text.
class Encoder {
  public:
    // Throws VocabError as MergeTable does.
    Encoder(const std::vector<Token>& tokens, Pattern pattern);

    // Appends the ids of a whole text. Any bytes are legal; see PretokenCursor for what is not UTF-8.
    void encode(Bytes text, std::vector<Id>& ids) const;

    // Appends the ids that no further text can change, and returns how many bytes they cover. Encoding the rest of
    // `text` together with what follows continues exactly.
    std::size_t encode_stable(Bytes text, std::vector<Id>& ids) const;

    // Appends the ids of spans that the caller has cut: span i ends before byte ends[i] of text.
    // Throws DataError if the ends do not rise from 0 to the text's size.
    void encode_pretokens(Bytes text, std::span<const std::int64_t> ends, std::vector<Id>& ids) const;

    // How many ids `encode` would append, without keeping them.
    std::size_t count(Bytes text) const;

    // The same as `encode` for each text, on up to `threads` threads.
    Batch encode_batch(const std::vector<Bytes>& texts, std::size_t threads) const;

    const MergeTable& merges() const { return merges_; }
    Pattern pattern() const { return pattern_; }

  private:
    MergeTable merges_;
    Pattern pattern_;
};

}  // namespace bpetok
