#include "merge_list.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "heap_merge.h"

namespace bpetok {
namespace {

// The list by pairs, and the tokens by id.
class MergeList {
  public:
    MergeList(std::span<const Token> tokens, std::span<const ListedMerge> merges)
        : merges_(merges), pairs_(merges.size()) {
        for (const Token& token : tokens) {
            if (token.id > kMaxId)
                throw VocabError("vocab: an id must be at most " + std::to_string(kMaxId) + ", got " +
                                 std::to_string(token.id));
            if (token.id >= bytes_.size()) bytes_.resize(token.id + std::size_t{1});
            bytes_[token.id] = token.bytes;
            ids_.emplace(token.bytes, token.id);
        }
        for (const ListedMerge& merge : merges) add(merge);
    }

    // Merges the bytes of a token. `last`: the place in the list of the last merge.
    HeapMerged merge(Bytes bytes, std::vector<Id>& parts) const {
        parts.clear();
        for (std::size_t i = 0; i < bytes.size(); ++i) {
            const auto byte = ids_.find(bytes.substr(i, 1));
            if (byte == ids_.end())
                throw VocabError("vocab: every single byte must be a token, missing " + quoted(bytes.substr(i, 1)));
            parts.push_back(byte->second);
        }
        return merge_by_heap(parts, [&](Id left, Id right) {
            const Rank rank = pairs_.get(PairMap::key(left, right), kNoId);
            return rank == kNoId ? Candidate{0, kNoId} : Candidate{rank, made_[rank]};
        });
    }

    const ListedMerge& operator[](Rank place) const { return merges_[place]; }

  private:
    void add(const ListedMerge& merge) {
        const Bytes left = bytes_of(merge.left), right = bytes_of(merge.right);
        std::string both(left);
        both += right;
        const auto made = ids_.find(both);
        if (left.empty() || right.empty() || made == ids_.end())
            throw VocabError("vocab: a merge must make a token of two, got " + shown(merge));
        if (pairs_.get(PairMap::key(merge.left, merge.right), kNoId) != kNoId)
            throw VocabError("vocab: a merge must stand once, got " + shown(merge) + " again");
        pairs_.insert(PairMap::key(merge.left, merge.right), static_cast<Rank>(made_.size()));
        made_.push_back(made->second);
    }

    Bytes bytes_of(Id id) const { return id < bytes_.size() ? bytes_[id] : Bytes(); }

    static std::string shown(const ListedMerge& merge) {
        return "(" + std::to_string(merge.left) + ", " + std::to_string(merge.right) + ")";
    }

    std::span<const ListedMerge> merges_;
    PairMap pairs_;             // to the place in the list
    std::vector<Id> made_;      // by that
    std::vector<Bytes> bytes_;  // by id; empty where there is no token
    std::unordered_map<Bytes, Id> ids_;
};

struct Made {
    Token token;
    Rank place;  // in the list, of the merge that makes it
};

}  // namespace

OrderedTokens order_by_list(std::span<const Token> tokens, std::span<const ListedMerge> merges) {
    const MergeList list(tokens, merges);
    OrderedTokens ordered;
    std::unordered_map<Id, Id> places;
    const auto add = [&](const Token& token) {
        const auto place = static_cast<Id>(ordered.tokens.size());
        ordered.tokens.push_back({token.bytes, place});
        ordered.given.push_back(token.id);
        places.emplace(token.id, place);
    };
    std::vector<Made> made;
    std::vector<Id> parts;
    for (const Token& token : tokens) {
        if (token.bytes.size() == 1) {
            add(token);
        } else if (const HeapMerged merged = list.merge(token.bytes, parts); merged.size == 1) {
            made.push_back({token, merged.last});
        } else {
            ordered.unreachable.push_back(token);
        }
    }
    std::sort(made.begin(), made.end(), [](const Made& a, const Made& b) { return a.place < b.place; });
    for (const auto& [token, place] : made) add(token);
    for (const auto& [token, place] : made)
        ordered.merges.push_back({places.at(list[place].left), places.at(list[place].right), 0});
    return ordered;
}

}  // namespace bpetok
