#include "decode.h"

#include <algorithm>
#include <cstring>

namespace bpetok {

Decoder::Decoder(const std::vector<Token>& tokens) {
    std::size_t total = 0;
    Id highest = 0;
    for (const Token& token : tokens) {
        total += token.bytes.size();
        highest = std::max(highest, token.id);
    }
    if (highest > kMaxId)
        throw VocabError("vocab: an id must be at most " + std::to_string(kMaxId) + ", got " + std::to_string(highest));
    if (total >= kUnknown) throw VocabError("vocab: the tokens' bytes must be fewer than 4 GiB");
    arena_.reserve(total + kStride);
    entries_.resize(static_cast<std::size_t>(highest) + 1, {0, kUnknown});
    for (const Token& token : tokens) {
        if (entries_[token.id].size != kUnknown)
            throw VocabError("vocab: an id must belong to one token, got two for id " + std::to_string(token.id));
        entries_[token.id] = {static_cast<std::uint32_t>(arena_.size()),
                              static_cast<std::uint32_t>(token.bytes.size())};
        arena_ += token.bytes;
    }
    arena_.append(kStride, '\0');
}

Bytes Decoder::token(Id id) const {
    if (id >= entries_.size() || entries_[id].size == kUnknown)
        throw UnknownIdError("decode: no token has the id " + std::to_string(id));
    return Bytes(arena_).substr(entries_[id].begin, entries_[id].size);
}

std::size_t Decoder::size(std::span<const Id> ids) const {
    std::size_t total = 0;
    for (const Id id : ids) {
        if (id >= entries_.size() || entries_[id].size == kUnknown) [[unlikely]]
            token(id);  // throws
        total += entries_[id].size;
    }
    return total;
}

void Decoder::decode(std::span<const Id> ids, char* bytes) const {
    // The last ids may have no room behind them for a whole stride.
    std::size_t exact = ids.size(), room = 0;
    while (exact > 0 && room < kStride) room += entries_[ids[--exact]].size;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const Entry entry = entries_[ids[i]];
        const char* token = arena_.data() + entry.begin;
        if (i < exact && entry.size <= kStride) [[likely]] {
            std::memcpy(bytes, token, kStride);
        } else {
            std::memcpy(bytes, token, entry.size);
        }
        bytes += entry.size;
    }
}

}  // namespace bpetok
