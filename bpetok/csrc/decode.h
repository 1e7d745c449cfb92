// decode.h: ids -> bytes.
#pragma once

#include <span>

#include "merges.h"
#include "types.h"

namespace bpetok {

// The bytes of every id, special tokens included. Immutable, so any thread may use it.
class Decoder {
  public:
    // Copies the tokens' bytes. Throws VocabError if an id stands twice or is above kMaxId.
    explicit Decoder(const std::vector<Token>& tokens);

    // How many bytes the ids stand for. Throws UnknownIdError that names the first id that no token has.
    std::size_t size(std::span<const Id> ids) const;

    // Writes the bytes of the ids, `size(ids)` of them, and nothing behind them. Requires: `size` did not throw.
    void decode(std::span<const Id> ids, char* bytes) const;

    // The bytes of one id. Throws UnknownIdError.
    Bytes token(Id id) const;

    // The highest id plus one.
    std::size_t id_count() const { return entries_.size(); }

  private:
    struct Entry {
        std::uint32_t begin;  // in the arena
        std::uint32_t size;   // kUnknown: no token has the id
    };
    static constexpr std::uint32_t kUnknown = ~0u;
    static constexpr std::size_t kStride = 16;  // tokens are copied so many bytes at a time

    std::string arena_;  // with kStride bytes behind the last token
    std::vector<Entry> entries_;
};

}  // namespace bpetok
