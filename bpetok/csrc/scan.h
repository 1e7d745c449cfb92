// scan.h: where the pretokens of valid UTF-8 begin, 64 bytes at a time. Slow twin: `PretokenCursor`.
//
// A block begins at a pretoken, so nothing is carried from one to the next. Each class of characters is a mask of 64
// bits, and where pretokens begin follows from the masks by shifts, and by additions whose carries run through a class.
// What is hard (a blank or number of several bytes, marks and case in unusual places, a pretoken of over 60 bytes) ends
// the block early; if that leaves nothing of it, `pretoken_end` finds one pretoken.
#pragma once

#include <vector>

#include "merges.h"
#include "pretokenize.h"
#include "tiers.h"

namespace bpetok {

// What the scanner knows of characters and, so that it can cut long words of many-byte scripts, of the vocabulary.
// Text may be cut between two characters where no token has them side by side: no merge crosses that place.
class ScanTable {
  public:
    enum Flag : std::uint8_t {
        kLetter = 1,
        kUpper = 2,
        kLower = 4,
        kMark = 8,
        kNumber = 16,
        kHard = 32,
        kJoinsLeft = 64,    // no cut before it: some token holds it and half of the character before it
        kJoinsRight = 128,  // no cut behind it: some token holds it and half of the character behind it
    };

    // `unreachable`: the tokens that merging does not give. A part that is cut off must not be one of them.
    ScanTable(Pattern pattern, const std::vector<Token>& tokens, const std::vector<Bytes>& unreachable);

    const Pattern& pattern() const { return pattern_; }
    // Flags of a character of the basic plane.
    std::uint8_t flags(std::uint32_t code_point) const { return flags_[code_point]; }
    std::uint8_t flags_beyond(std::uint32_t code_point) const { return flags_of(class_of(code_point)); }
    // False if no token has these characters of three bytes side by side; true if one may.
    bool adjoin(std::uint32_t left, std::uint32_t right) const {
        const std::uint32_t bit = bit_of(left, right);
        return adjoin_[bit / 64] >> (bit % 64) & 1;
    }

  private:
    static std::uint32_t bit_of(std::uint32_t left, std::uint32_t right) {
        return (left * 0x9E3779B1u + right * 0x85EBCA6Bu) >> 12;
    }
    std::uint8_t flags_of(CharClass cls) const;
    void note_borders(Bytes token);
    void note_border(Bytes left, Bytes right);
    void keep_whole(Bytes token);

    Pattern pattern_;
    std::vector<std::uint8_t> flags_;    // by code point below 65,536
    std::vector<std::uint64_t> adjoin_;  // 2^20 bits
};

}  // namespace bpetok
