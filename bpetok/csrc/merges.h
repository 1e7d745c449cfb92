// merges.h: a vocabulary's mergeable tokens, and the merging of one pretoken. Slow twin: `merge_pretoken` in
// reference.py.
#pragma once

#include <array>

#include "hash.h"
#include "types.h"

namespace bpetok {

struct Token {
    Bytes bytes;
    Id id;
};

// The mergeable tokens of a vocabulary under rank semantics: of all neighbours whose concatenation is a token, those
// whose concatenation has the lowest id merge first, the leftmost of equal ones. Immutable, so any thread may read it.
class MergeTable {
  public:
    // Copies the tokens' bytes. Throws VocabError if a single byte is missing, a token is empty or stands twice.
    // Cost: one look-up for each way to cut each token in two.
    explicit MergeTable(const std::vector<Token>& tokens);

    // The token of exactly these bytes, kNoId if there is none.
    Id find(Bytes bytes) const;

    // Appends the ids of one pretoken: its own id if it is a token, else what merging its bytes leaves.
    // Time: O(n log n) in its length; the stack is not used for it.
    void encode(Bytes pretoken, std::vector<Id>& ids) const;

  private:
    void add(const Token& token);
    void add_pairs(const Token& token);
    std::size_t place(Bytes bytes) const;
    Id merged(Id left, Id right) const;
    void merge_short(Bytes pretoken, std::vector<Id>& ids) const;
    void merge_long(Bytes pretoken, std::vector<Id>& ids) const;

    std::string arena_;         // the bytes of all tokens, one behind the other
    std::vector<Token> slots_;  // bytes -> id, open addressing, at most half full; free where bytes are empty
    std::array<Id, 256> byte_ids_;
    PairMap pairs_;
};

}  // namespace bpetok
