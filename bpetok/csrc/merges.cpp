#include "merges.h"

#include <algorithm>

#include "heap_merge.h"
#include "merge_list.h"

namespace bpetok {
namespace {

std::vector<Token> sorted_by_id(const std::vector<Token>& tokens) {
    std::vector<Token> sorted = tokens;
    const auto by_id = [](const Token& a, const Token& b) { return a.id < b.id; };
    if (!std::is_sorted(sorted.begin(), sorted.end(), by_id)) std::sort(sorted.begin(), sorted.end(), by_id);
    return sorted;
}

}  // namespace

std::string quoted(Bytes bytes) {
    constexpr char kHex[] = "0123456789abcdef";
    std::string out = "b'";
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7F && c != '\'' && c != '\\') {
            out += c;
        } else {
            out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
        }
    }
    return out + "'";
}

MergeTable::MergeTable(const std::vector<Token>& tokens, std::span<const Merge> merges)
    : byte_pairs_(1 << 16, kNoId), pairs_(tokens.size()) {
    byte_ids_.fill(kNoId);
    const std::vector<Token> sorted = sorted_by_id(tokens);
    for (std::size_t i = 0; i < sorted.size(); ++i) {
        const auto& [bytes, id] = sorted[i];
        if (bytes.empty()) throw VocabError("vocab: a token must not be empty, got id " + std::to_string(id));
        if (id > kMaxId)
            throw VocabError("vocab: an id must be at most " + std::to_string(kMaxId) + ", got " + std::to_string(id));
        if (i > 0 && id == sorted[i - 1].id)
            throw VocabError("vocab: an id must belong to one token, got two for id " + std::to_string(id));
        if (bytes.size() > 1) continue;
        Id& slot = byte_ids_[static_cast<unsigned char>(bytes[0])];
        if (slot != kNoId) throw VocabError("vocab: a token must have one id, got two for " + quoted(bytes));
        slot = id;
    }
    sizes_.resize(sorted.empty() ? 0 : sorted.back().id + std::size_t{1});
    for (const auto& [bytes, id] : sorted) sizes_[id] = static_cast<std::uint32_t>(bytes.size());
    for (std::size_t byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        if (byte_ids_[byte] == kNoId)
            throw VocabError("vocab: every single byte must be a token, missing " + quoted({&c, 1}));
    }
    std::vector<Token> longer;
    for (const Token& token : sorted)
        if (token.bytes.size() > 1) longer.push_back(token);
    if (!merges.empty()) {
        for (std::size_t i = 0; i < longer.size(); ++i) add_pair(longer[i], merges[i].left, merges[i].right);
        return;
    }
    TokenIds all;
    for (std::size_t begin = 0; begin < longer.size(); begin += kMergeGroup)
        add_group(std::span(longer).subspan(begin, std::min(kMergeGroup, longer.size() - begin)), sorted, all);
}

MergeTable::MergeTable(OrderedTokens ordered, bool ignore_merges) : MergeTable(ordered.tokens, ordered.merges) {
    given_ = std::move(ordered.given);
    sizes_.assign(*std::max_element(given_.begin(), given_.end()) + std::size_t{1}, 0);
    for (const Token& token : ordered.tokens) sizes_[given_[token.id]] = static_cast<std::uint32_t>(token.bytes.size());
    for (const auto& [bytes, id] : ordered.unreachable) {
        if (ignore_merges) {
            unreachable_.emplace(bytes, id);
        } else {
            never_.emplace(bytes);
        }
    }
}

// A token is made from one pair only: the two parts that merging its bytes by the tokens before it leaves, since no
// merge across its borders has a say in that. Several are merged at once: where two parts are left without the group's
// own tokens, those would not have changed them.
void MergeTable::add_group(std::span<const Token> group, const std::vector<Token>& tokens, TokenIds& all) {
    std::array<Bytes, kMergeGroup> bytes;
    std::array<Merged, kMergeGroup> merged;
    for (std::size_t i = 0; i < group.size(); ++i) bytes[i] = group[i].bytes;
    const bool short_ones = std::all_of(group.begin(), group.end(),
                                        [](const Token& token) { return token.bytes.size() <= kShortPretoken; });
    if (short_ones) tier_in_use().merge(*this, {bytes.data(), group.size()}, merged.data());
    for (std::size_t i = 0; i < group.size(); ++i) {
        if (short_ones && merged[i].size == 2) {
            add_pair(group[i], merged[i].ids[0], merged[i].ids[1]);
        } else {
            add(group[i], tokens, all);
        }
    }
}

void MergeTable::add_pair(const Token& token, Id left, Id right) {
    // Where the group holds a token twice, its pair is here already.
    if (pairs_.get(pairs_.place_of(left, right)) != kNoId)
        throw VocabError("vocab: a token must have one id, got two for " + quoted(token.bytes));
    pairs_.insert(left, right, token.id);
    if (token.bytes.size() == 2) byte_pairs_[pair_index(token.bytes[0], token.bytes[1])] = token.id;
}

// A token that the tokens before it do not merge to two parts is made from whatever pair of tokens it can be cut into,
// if at all.
void MergeTable::add(const Token& token, const std::vector<Token>& tokens, TokenIds& all) {
    const auto& [bytes, id] = token;
    std::vector<Id> parts(bytes.size());
    const std::size_t n = merge(bytes, parts.data());
    if (n == 2) return add_pair(token, parts[0], parts[1]);
    if (n == 1 || !unreachable_.emplace(bytes, id).second)
        throw VocabError("vocab: a token must have one id, got two for " + quoted(bytes));
    if (all.empty()) {
        for (const Token& other : tokens) {
            all.emplace(other.bytes, other.id);
            token_sizes_.insert(other.bytes.size());
        }
    }
    for (const std::size_t cut : token_sizes_) {
        if (cut >= bytes.size()) break;
        if (!token_sizes_.contains(bytes.size() - cut)) continue;
        const auto left = all.find(bytes.substr(0, cut)), right = all.find(bytes.substr(cut));
        if (left != all.end() && right != all.end())
            unreachable_pairs_.insert(PairMap::key(left->second, right->second), id);
    }
}

std::vector<Bytes> MergeTable::unreachable() const {
    std::vector<Bytes> tokens;
    for (const auto& [token, id] : unreachable_) tokens.push_back(token);
    for (const std::string& token : never_) tokens.push_back(token);
    return tokens;
}

Id MergeTable::find_unreachable(Bytes pretoken) const {
    if (unreachable_.empty()) return kNoId;
    const auto whole = unreachable_.find(std::string(pretoken));
    return whole == unreachable_.end() ? kNoId : whole->second;
}

std::size_t MergeTable::merge(Bytes pretoken, Id* ids) const {
    Merged merged;
    if (pretoken.size() > kShortPretoken) {
        merged.size = merge_long(pretoken, ids);
    } else {
        tier_in_use().merge(*this, {&pretoken, 1}, &merged);
        std::copy_n(merged.ids.begin(), merged.size, ids);
    }
    give_ids({ids, merged.size});
    return merged.size;
}

void MergeTable::give_ids(std::span<Id> ids) const {
    if (given_.empty()) return;
    for (Id& id : ids) id = given_[id];
}

void MergeTable::encode_group(std::span<const Bytes> pretokens, Merged* merged) const {
    tier_in_use().merge(*this, pretokens, merged);
    for (std::size_t i = 0; i < pretokens.size(); ++i) give_ids({merged[i].ids.data(), merged[i].size});
    if (unreachable_.empty()) return;
    for (std::size_t i = 0; i < pretokens.size(); ++i) {
        const Id whole = find_unreachable(pretokens[i]);
        if (whole == kNoId) continue;
        merged[i].ids[0] = whole;
        merged[i].size = 1;
    }
}

std::size_t MergeTable::merge_long(Bytes pretoken, Id* ids) const {
    for (std::size_t i = 0; i < pretoken.size(); ++i) ids[i] = byte_id(pretoken[i]);
    const auto candidate_of = [&](Id left, Id right) {
        const Id id = merged(left, right, pairs_.place_of(left, right));
        return Candidate{id, id};
    };
    return merge_by_heap(std::span(ids, pretoken.size()), candidate_of).size;
}

}  // namespace bpetok
