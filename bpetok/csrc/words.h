// words.h: the distinct pretokens of a corpus as training keeps them: an array in which tokens grow.
#pragma once

#include <algorithm>
#include <functional>

#include "counts.h"
#include "merges.h"

namespace bpetok {

class Encoder;

using Position = std::uint32_t;  // of a cell

inline constexpr Id kSeparator = kNoId;  // between the pretokens

// The tokens that text is made of before the first merge, in the order that breaks ties. Training numbers them from 0
// on.
struct Alphabet {
    std::vector<Token> tokens;
    Id next_id;                        // of the token that the first merge makes
    const Encoder* encoder = nullptr;  // cuts pretokens into them; nullptr where they are the single bytes
};

// All distinct pretokens in one array of cells, one cell per byte, a separator around each. A token's id stands in its
// first and in its last cell, so both neighbours of a token are found without links.
class Words {
  public:
    // `as_met`: in order of first occurrence; otherwise the most frequent come first, so that few numbers tell how
    // often each occurs. Throws DataError if they hold 2^32 bytes or more, or all of them together 2^63 bytes.
    // Calls `turn` now and then in long work; it may throw to end it.
    Words(const PretokenCounts& counts, const Alphabet& alphabet, bool as_met, std::function<void()> turn);
    Words(Words&&) = default;  // large: never copied

    std::size_t memory() const { return cells_.capacity() * sizeof(Id) + ends_.capacity() * 3 * sizeof(Position); }
    std::size_t size() const { return cells_.size(); }      // in cells
    std::size_t tokens() const { return lengths_.size(); }  // that there are, or were made
    bool are_bytes() const { return are_bytes_; }           // that the text began with
    Count count_tokens() const { return count_; }           // that the text began with
    Position length(Id id) const { return lengths_[id]; }

    // A new token's id.
    Id learn(Id left, Id right) {
        lengths_.push_back(lengths_[left] + lengths_[right]);
        return static_cast<Id>(lengths_.size() - 1);
    }

    // Requires: a token began at the place when all of its cells were last looked at.
    bool stands(Position place, Id left, Id right) const {
        const Id* cell = &cells_[place];
        const std::size_t middle = lengths_[left], end = middle + lengths_[right];
        return cell[0] == left && cell[middle] == right && cell[middle - 1] == left && cell[end - 1] == right;
    }
    void write(Position place, Id id) { cells_[place] = cells_[place + lengths_[id] - 1] = id; }

    // The tokens beside one; kSeparator where there is none.
    Id before(Position place) const { return cells_[place - 1]; }
    Id after(Position place, Id id) const { return cells_[place + lengths_[id]]; }

    void prefetch(Position place) const { __builtin_prefetch(&cells_[place], 1); }

    // Calls visit(place, id, next id) for each token that has a neighbour on its right.
    template <class Visit>
    void for_each_pair(Visit visit) const {
        for (Position place = 1; place < cells_.size(); turn_())
            for (const std::size_t end = std::min(place + kTurn, cells_.size()); place < end;) {
                const Id id = cells_[place], next = id == kSeparator ? kSeparator : after(place, id);
                if (next != kSeparator) visit(place, id, next);
                place += id == kSeparator ? 1 : lengths_[id];
            }
    }

    // The same, faster, while all tokens are single bytes.
    template <class Visit>
    void for_each_byte_pair(Visit visit) const {
        for (Position place = 1; place < cells_.size(); turn_())
            for (const std::size_t end = std::min(place + kTurn, cells_.size()); place < end; ++place)
                if (cells_[place] != kSeparator && cells_[place + 1] != kSeparator)
                    visit(place, cells_[place], cells_[place + 1]);
    }

    // How often the pretoken at a place occurs. Requires: places rise until `rewind`.
    Count weight_at(Position place) {
        if (ends_[at_] <= place) seek(place);
        return weights_[at_];
    }
    void rewind() { at_ = 0; }

  private:
    static constexpr std::size_t kTurn = std::size_t{1} << 20;  // cells

    void reserve(const PretokenCounts& counts);
    void end_pretoken(Count weight, std::size_t tokens);
    void add_bytes(const PretokenCounts& counts, const std::vector<std::uint32_t>& order, const Alphabet& alphabet);
    void add_encoded(const PretokenCounts& counts, const std::vector<std::uint32_t>& order, const Alphabet& alphabet);
    void take_turn();
    void seek(Position place);

    std::function<void()> turn_;
    std::vector<Id> cells_;
    std::vector<Position> lengths_;  // of each id's token, in bytes
    std::vector<Position> ends_;     // up to ends_[i], each pretoken occurs weights_[i] times
    std::vector<Count> weights_;
    std::size_t at_ = 0;
    std::size_t next_turn_ = kTurn;
    Count count_ = 0;
    bool are_bytes_;
};

}  // namespace bpetok
