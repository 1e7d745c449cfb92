#include "decode.h"

#include <algorithm>
#include <cstring>

namespace bpetok {

Decoder::Decoder(const std::vector<Token>& tokens) {
    Id highest = 0;
    for (const Token& token : tokens) highest = std::max(highest, token.id);
    if (highest > kMaxId)
        throw VocabError("vocab: an id must be at most " + std::to_string(kMaxId) + ", got " + std::to_string(highest));
    slots_.resize(static_cast<std::size_t>(highest) + 1, Slot{{}, kUnknown});
    for (const auto& [bytes, id] : tokens) {
        Slot& slot = slots_[id];
        if (slot.size != kUnknown)
            throw VocabError("vocab: an id must belong to one token, got two for id " + std::to_string(id));
        if (bytes.size() > Slot::kMax) {
            slot.size = kLong;
            long_.emplace(id, bytes);
        } else {
            slot.size = static_cast<std::uint8_t>(bytes.size());
            std::copy(bytes.begin(), bytes.end(), slot.bytes.begin());
        }
    }
    sizes_.reserve(slots_.size());
    for (const Slot& slot : slots_) sizes_.push_back(slot.size);
}

Bytes Decoder::token(Id id) const {
    if (id >= slots_.size() || slots_[id].size == kUnknown)
        throw UnknownIdError("decode: no token has the id " + std::to_string(id));
    const Slot& slot = slots_[id];
    return slot.size == kLong ? Bytes(long_.at(id)) : Bytes(slot.bytes.data(), slot.size);
}

std::size_t Decoder::size(std::span<const Id> ids) const {
    std::size_t total = 0;
    for (const Id id : ids) {
        const std::uint8_t size = id < sizes_.size() ? sizes_[id] : kUnknown;
        total += size < kLong ? size : token(id).size();
    }
    return total;
}

void Decoder::decode(std::span<const Id> ids, char* bytes) const {
    // The last ids may have no room behind them for a whole slot.
    std::size_t roomy = ids.size(), room = 0;
    while (roomy > 0 && room < sizeof(Slot)) room += token(ids[--roomy]).size();
    for (const Id id : ids.first(roomy)) {
        const Slot& slot = slots_[id];
        if (slot.size != kLong) [[likely]] {
            std::memcpy(bytes, &slot, sizeof(Slot));
            bytes += slot.size;
        } else {
            bytes = std::copy_n(long_.at(id).data(), long_.at(id).size(), bytes);
        }
    }
    for (const Id id : ids.subspan(roomy)) {
        const Bytes last = token(id);
        bytes = std::copy(last.begin(), last.end(), bytes);
    }
}

std::optional<std::size_t> Decoder::decode_short(std::span<const Id> ids, char* bytes) const {
    static_assert(sizeof(Slot) <= kRoom);
    char* out = bytes;
    for (const Id id : ids) {
        if (id >= slots_.size() || slots_[id].size >= kLong) [[unlikely]]
            return {};
        std::memcpy(out, &slots_[id], sizeof(Slot));
        out += slots_[id].size;
    }
    return static_cast<std::size_t>(out - bytes);
}

}  // namespace bpetok
