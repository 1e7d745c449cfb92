// merge_list.h: merge-list semantics, as Hugging Face's tokenizers and llama.cpp have them: only listed pairs merge,
// the earliest of the list first. Slow twin: `merge_by_list` in reference.py.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "merges.h"

namespace bpetok {

// A pair of tokens that merges.
struct ListedMerge {
    Id left;
    Id right;
};

// A list of merges, made ready for MergeTable, which merges by id.
//
// The list may have several pairs that make one token, but only one of them ever does: no merge crosses the borders of
// a token that is going to be made, so within them the same merges are made in the same order as in its bytes alone.
// So each token has one pair, and an id of its own that is its place in the order of those pairs.
struct OrderedTokens {
    std::vector<Token> tokens;       // that merging makes, each with its place as id
    std::vector<Merge> merges;       // of each token of more than a byte, in that order, by those ids
    std::vector<Id> given;           // by those ids: the ids that the vocabulary gives
    std::vector<Token> unreachable;  // with the vocabulary's ids: the tokens that merging their bytes does not give
};

// Throws VocabError if a merge's part, or what it makes, is no token; if a pair is listed twice; if an id is above
// kMaxId. Cost: each token is merged once.
OrderedTokens order_by_list(std::span<const Token> tokens, std::span<const ListedMerge> merges);

}  // namespace bpetok
