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

    // A table entry is kept for each id up to the highest, so a hostile file must not name a huge one.
    static constexpr Id kMaxId = (1u << 24) - 1;

    // Appends the bytes of all ids. Throws UnknownIdError that names the first id that no token has.
    void decode(std::span<const Id> ids, std::string& bytes) const;

    // The bytes of one id. Throws UnknownIdError.
    Bytes token(Id id) const;

  private:
    std::string arena_;
    std::vector<Bytes> tokens_;  // by id; data() is nullptr where no token has the id
};

}  // namespace bpetok
