#include "decode.h"

#include <algorithm>

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
    arena_.reserve(total);  // so that the views into it stay valid
    tokens_.resize(static_cast<std::size_t>(highest) + 1);
    for (const Token& token : tokens) {
        if (tokens_[token.id].data() != nullptr)
            throw VocabError("vocab: an id must belong to one token, got two for id " + std::to_string(token.id));
        const std::size_t start = arena_.size();
        arena_ += token.bytes;
        tokens_[token.id] = {arena_.data() + start, token.bytes.size()};
    }
}

Bytes Decoder::token(Id id) const {
    if (id >= tokens_.size() || tokens_[id].data() == nullptr)
        throw UnknownIdError("decode: no token has the id " + std::to_string(id));
    return tokens_[id];
}

void Decoder::decode(std::span<const Id> ids, std::string& bytes) const {
    for (const Id id : ids) bytes += token(id);
}

}  // namespace bpetok
