// scan.h: where the pretokens of valid UTF-8 begin, 64 bytes at a time. Slow twin: `PretokenCursor`.
//
// A block begins at a pretoken, so nothing is carried from one to the next. Each class of characters is a mask of 64
// bits, and where pretokens begin follows from the masks by shifts, and by additions whose carries run through a class.
// What is hard (a blank or number of several bytes, marks and case in unusual places, a pretoken of over 60 bytes) ends
// the block early; if that leaves nothing of it, `pretoken_end` finds one pretoken.
#pragma once

#include <array>
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

    // For a vocabulary that is not known yet: nothing is cut but at the ends of pretokens.
    explicit ScanTable(Pattern pattern);

    const Pattern& pattern() const { return pattern_; }
    // Flags of a character of the basic plane.
    std::uint8_t flags(std::uint32_t code_point) const { return flags_[code_point]; }
    std::uint8_t flags_beyond(std::uint32_t code_point) const { return flags_of(class_of(code_point)); }
    // False if no token has these characters of three bytes side by side, nor halves of both; true if one may.
    bool adjoin(std::uint32_t left, std::uint32_t right) const {
        const Bits bits = bits_of(left, right);
        return (adjoin_[bits.word] & bits.mask) == bits.mask || halves_[left & 0x3F] >> (right >> 12) & 1;
    }
    // Where the first part of a pretoken of over kShortPretoken bytes ends that no merge crosses: before a character of
    // four bytes behind another character that is not ASCII, if no token has such bytes side by side; else at the end.
    // For pretokens that the scanner left whole.
    std::size_t first_cut(Bytes pretoken) const;

  private:
    // Two bits of one word: where only one of them is some other pair's, the word tells the pairs apart.
    struct Bits {
        std::uint32_t word;
        std::uint64_t mask;
    };
    static Bits bits_of(std::uint32_t left, std::uint32_t right) {
        const std::uint32_t hash = left * 0x9E3779B1u + right * 0x85EBCA6Bu;
        return {hash >> 18, std::uint64_t{1} << (hash >> 12 & 63) | std::uint64_t{1} << (hash >> 6 & 63)};
    }
    std::uint8_t flags_of(CharClass cls) const;
    void note_borders(Bytes token);
    void note_border(Bytes left, Bytes right);
    void keep_whole(Bytes token);

    Pattern pattern_;
    std::vector<std::uint8_t> flags_;    // by code point below 65,536
    std::vector<std::uint64_t> adjoin_;  // 2^14 words
    std::array<std::uint16_t, 64>
        halves_{};  // by a character's last six bits: first halves (four bits) behind its last
    bool cuts_before_four_bytes_;
};

}  // namespace bpetok
