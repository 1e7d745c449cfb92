// merges.h: a vocabulary's mergeable tokens, and the merging of one pretoken. Slow twin: `merge_pretoken` in
// reference.py.
#pragma once

#include <array>
#include <set>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "hash.h"
#include "pair_table.h"
#include "tiers.h"
#include "types.h"

namespace bpetok {

struct Token {
    Bytes bytes;
    Id id;
};

// Bytes as a reader of an error message wants them: b'\x00a'.
std::string quoted(Bytes bytes);

struct OrderedTokens;

// The mergeable tokens of a vocabulary. Under rank semantics, of all neighbours whose concatenation is a token, those
// whose concatenation has the lowest id merge first, the leftmost of equal ones; merge_list.h tells of the other
// semantics. Immutable, so any thread may read it.
class MergeTable {
  public:
    // Copies what it needs. Throws VocabError if a single byte is missing, a token is empty or stands twice, an id is
    // above kMaxId or stands twice. Cost: each token is merged once, unless `merges` tells the merge of each token of
    // more than a byte, in the order of their ids, and rightly so.
    explicit MergeTable(const std::vector<Token>& tokens, std::span<const Merge> merges = {});

    // Under merge-list semantics. `ignore_merges`: a whole pretoken that is a token has its id, whatever merging gives.
    MergeTable(OrderedTokens ordered, bool ignore_merges);

    // Writes the ids that merging these bytes leaves, at most one for each, and returns their number. Time: O(n log n)
    // in their length; the stack is not used for it.
    std::size_t merge(Bytes bytes, Id* ids) const;

    // The ids of pretokens, a group as Tier::merge takes it: the own id of one that is a token, else what merging
    // leaves.
    void encode_group(std::span<const Bytes> pretokens, Merged* merged) const;

    // The tokens that those of lower id do not make of two, or no listed merge makes; they are found as whole
    // pretokens, even where merging would not give them, unless they are never found.
    std::vector<Bytes> unreachable() const;
    bool is_never_found(Bytes token) const { return !never_.empty() && never_.contains(std::string(token)); }
    Id find_unreachable(Bytes pretoken) const;

    // How many bytes a token has.
    std::size_t size_of(Id id) const { return sizes_[id]; }

    // For the tiers: the token of a byte, of two bytes (kNoId if there is none), of two tokens.
    Id byte_id(char byte) const { return byte_ids_[static_cast<unsigned char>(byte)]; }
    Id byte_pair(char first, char second) const { return byte_pairs_[pair_index(first, second)]; }
    const PairTable& pairs() const { return pairs_; }
    Id merged(Id left, Id right, const PairTable::Place& place) const {
        const Id id = pairs_.get(place);
        if (id != kNoId || unreachable_.empty()) [[likely]]
            return id;
        return unreachable_pairs_.get(PairMap::key(left, right), kNoId);
    }

  private:
    using TokenIds = std::unordered_map<Bytes, Id>;

    static constexpr std::size_t pair_index(char first, char second) {
        return static_cast<std::size_t>(static_cast<unsigned char>(first)) << 8 | static_cast<unsigned char>(second);
    }
    void add_group(std::span<const Token> group, const std::vector<Token>& tokens, TokenIds& all);
    void add_pair(const Token& token, Id left, Id right);
    void add(const Token& token, const std::vector<Token>& tokens, TokenIds& all);
    std::size_t merge_long(Bytes pretoken, Id* ids) const;
    void give_ids(std::span<Id> ids) const;

    std::vector<std::uint32_t> sizes_;  // by id
    std::vector<Id> given_;             // by the ids that merging goes by: the vocabulary's; empty if they are the same
    std::array<Id, 256> byte_ids_;
    std::vector<Id> byte_pairs_;  // by first byte * 256 + second: the token of both, kNoId if there is none
    PairTable pairs_;
    std::unordered_map<std::string, Id> unreachable_;  // see `unreachable`
    PairMap unreachable_pairs_;                        // every way to cut those in two tokens
    std::set<std::size_t> token_sizes_;                // all there are, once one of those was met
    std::unordered_set<std::string> never_;            // see `is_never_found`
};

}  // namespace bpetok
