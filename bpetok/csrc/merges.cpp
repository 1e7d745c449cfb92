#include "merges.h"

#include <algorithm>
#include <queue>

namespace bpetok {
namespace {

// Above this length a heap beats the scan for the lowest pair.
constexpr std::size_t kShort = 128;

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

}  // namespace

MergeTable::MergeTable(const std::vector<Token>& tokens) : pairs_(tokens.size()) {
    std::size_t total = 0;
    for (const Token& token : tokens) total += token.bytes.size();
    arena_.reserve(total);  // so that the views into it stay valid
    slots_.resize(std::bit_ceil(tokens.size() * 2 + 2), Token{{}, kNoId});
    for (const Token& token : tokens) add(token);
    for (std::size_t byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        byte_ids_[byte] = find({&c, 1});
        if (byte_ids_[byte] == kNoId)
            throw VocabError("vocab: every single byte must be a token, missing " + quoted({&c, 1}));
    }
    for (const Token& token : tokens) add_pairs(token);
}

void MergeTable::add(const Token& token) {
    if (token.bytes.empty()) throw VocabError("vocab: a token must not be empty, got id " + std::to_string(token.id));
    Token& slot = slots_[place(token.bytes)];
    if (!slot.bytes.empty()) throw VocabError("vocab: a token must have one id, got two for " + quoted(token.bytes));
    const std::size_t start = arena_.size();
    arena_ += token.bytes;
    slot = {{arena_.data() + start, token.bytes.size()}, token.id};
}

// Every way to cut the token in two tokens is a pair that merges to it.
void MergeTable::add_pairs(const Token& token) {
    for (std::size_t cut = 1; cut < token.bytes.size(); ++cut) {
        const Id left = find(token.bytes.substr(0, cut));
        if (left == kNoId) continue;
        const Id right = find(token.bytes.substr(cut));
        if (right != kNoId) pairs_.insert(PairMap::key(left, right), token.id);
    }
}

std::size_t MergeTable::place(Bytes bytes) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = hash_bytes(bytes) & mask;
    while (!slots_[i].bytes.empty() && slots_[i].bytes != bytes) i = (i + 1) & mask;
    return i;
}

Id MergeTable::find(Bytes bytes) const { return slots_[place(bytes)].id; }

Id MergeTable::merged(Id left, Id right) const {
    const std::uint32_t* id = pairs_.find(PairMap::key(left, right));
    return id ? *id : kNoId;
}

void MergeTable::encode(Bytes pretoken, std::vector<Id>& ids) const {
    if (const Id whole = find(pretoken); whole != kNoId) {
        ids.push_back(whole);
    } else if (pretoken.size() <= kShort) {
        merge_short(pretoken, ids);
    } else {
        merge_long(pretoken, ids);
    }
}

void MergeTable::merge_short(Bytes pretoken, std::vector<Id>& ids) const {
    std::array<Id, kShort> parts;
    std::array<Id, kShort> merges;  // merges[i]: what parts[i] and parts[i + 1] merge to
    std::size_t n = pretoken.size();
    for (std::size_t i = 0; i < n; ++i) parts[i] = byte_ids_[static_cast<unsigned char>(pretoken[i])];
    for (std::size_t i = 0; i + 1 < n; ++i) merges[i] = merged(parts[i], parts[i + 1]);
    while (n > 1) {
        const auto lowest = std::min_element(merges.begin(), merges.begin() + static_cast<std::ptrdiff_t>(n - 1));
        if (*lowest == kNoId) break;
        const auto i = static_cast<std::size_t>(lowest - merges.begin());
        parts[i] = merges[i];
        std::copy(parts.begin() + i + 2, parts.begin() + n, parts.begin() + i + 1);
        std::copy(merges.begin() + i + 1, merges.begin() + n - 1, merges.begin() + i);
        --n;
        if (i + 1 < n) merges[i] = merged(parts[i], parts[i + 1]);
        if (i > 0) merges[i - 1] = merged(parts[i - 1], parts[i]);
    }
    ids.insert(ids.end(), parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(n));
}

void MergeTable::merge_long(Bytes pretoken, std::vector<Id>& ids) const {
    struct Part {
        Id id;
        std::size_t previous, next;  // n and beyond: there is none
    };
    struct Candidate {
        Id merged;
        std::size_t left;
        Id left_id, right_id;  // as they were; a candidate whose parts have changed is void
        bool operator>(const Candidate& other) const {
            return merged != other.merged ? merged > other.merged : left > other.left;
        }
    };
    const std::size_t n = pretoken.size();
    std::vector<Part> parts(n);
    std::vector<Candidate> heap;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(), std::move(heap));
    const auto offer = [&](std::size_t left) {
        const std::size_t right = parts[left].next;
        if (right >= n) return;
        const Id id = merged(parts[left].id, parts[right].id);
        if (id != kNoId) queue.push({id, left, parts[left].id, parts[right].id});
    };
    for (std::size_t i = 0; i < n; ++i)
        parts[i] = {byte_ids_[static_cast<unsigned char>(pretoken[i])], i == 0 ? n : i - 1, i + 1};
    for (std::size_t i = 0; i + 1 < n; ++i) offer(i);
    while (!queue.empty()) {
        const Candidate best = queue.top();
        queue.pop();
        Part& left = parts[best.left];
        if (left.id != best.left_id || left.next >= n || parts[left.next].id != best.right_id) continue;
        Part& right = parts[left.next];
        right.id = kNoId;  // gone: no candidate can match it any more
        left.id = best.merged;
        left.next = right.next;
        if (left.next < n) parts[left.next].previous = best.left;
        offer(best.left);
        if (left.previous < n) offer(left.previous);
    }
    for (std::size_t i = 0; i < n; i = parts[i].next) ids.push_back(parts[i].id);
}

}  // namespace bpetok
