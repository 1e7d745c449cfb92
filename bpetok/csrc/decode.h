// decode.h: ids -> bytes.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

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

    // The same in one pass, for few ids: `bytes` has room for kRoom bytes for each id. Returns how many were written;
    // nothing if an id is unknown or its token long.
    static constexpr std::size_t kRoom = 16;
    std::optional<std::size_t> decode_short(std::span<const Id> ids, char* bytes) const;

    // The bytes of one id. Throws UnknownIdError.
    Bytes token(Id id) const;

    // The highest id plus one.
    std::size_t id_count() const { return slots_.size(); }

  private:
    // A short token stands in its slot, so that one look into memory finds its bytes and their number.
    struct alignas(16) Slot {
        static constexpr std::size_t kMax = 15;
        std::array<char, kMax> bytes;
        std::uint8_t size;  // kLong: it is in `long_`; kUnknown: no token has the id
    };
    static constexpr std::uint8_t kLong = 254, kUnknown = 255;

    std::vector<Slot> slots_;
    std::vector<std::uint8_t> sizes_;  // as in the slots: these alone stay near the processor
    std::unordered_map<Id, std::string> long_;
};

}  // namespace bpetok
