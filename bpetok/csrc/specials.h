// specials.h: finding special tokens in text.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "types.h"

namespace bpetok {

// A set of special tokens, each with an id. Immutable, so any thread may use it.
class Specials {
  public:
    struct Special {
        std::string text;
        Id id;
    };

    // Throws VocabError if one is empty.
    explicit Specials(std::vector<Special> specials);

    bool empty() const { return specials_.empty(); }

    struct Found {
        std::size_t begin;  // in the text
        const Special* special;
    };

    // The first special token at or behind `from`; of several that begin there the longest. Time: linear in the text,
    // times the longest special token where the text is made of their beginnings.
    std::optional<Found> find(Bytes text, std::size_t from = 0) const;

  private:
    struct Node {
        std::vector<std::pair<char, std::uint32_t>> children;  // sorted by byte
        const Special* special = nullptr;
    };

    std::uint32_t child(const Node& node, char byte) const;

    std::vector<Special> specials_;
    std::vector<Node> nodes_;
    std::array<bool, 256> begins_{};  // whether a special token begins with the byte
    bool one_beginning_ = false;
    char beginning_ = 0;
};

}  // namespace bpetok
