#include "scan.h"

#include <algorithm>

namespace bpetok {

namespace {

constexpr std::uint32_t kPlane = 0x10000;

bool is_ascii(Bytes bytes) {
    std::uint8_t all = 0;
    for (const char& c : bytes) all |= byte_at(&c);
    return all < 0x80;
}

bool is_tail(char c) { return (byte_at(&c) & 0xC0) == 0x80; }

std::size_t character_length(char first) {
    const std::uint8_t byte = byte_at(&first);
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

bool is_whole(Bytes character) { return !is_tail(character[0]) && character.size() == character_length(character[0]); }

std::uint32_t code_point_of_three(Bytes c) {
    return (byte_at(&c[0]) & 0x0Fu) << 12 | (byte_at(&c[1]) & 0x3Fu) << 6 | (byte_at(&c[2]) & 0x3Fu);
}

bool is_four_byte_lead(char c) { return byte_at(&c) >= 0xF0; }

}  // namespace

ScanTable::ScanTable(Pattern pattern)
    : pattern_(pattern), flags_(kPlane), adjoin_(1 << 14, ~std::uint64_t{0}), cuts_before_four_bytes_(false) {
    for (std::uint32_t code_point = 0; code_point < kPlane; ++code_point)
        flags_[code_point] = flags_of(class_of(code_point));
    if (pattern.contractions == Contractions::unicode_case) flags_[0x17F] |= kHard;
}

ScanTable::ScanTable(Pattern pattern, const std::vector<Token>& tokens, const std::vector<Bytes>& unreachable)
    : ScanTable(pattern) {
    std::fill(adjoin_.begin(), adjoin_.end(), 0);
    cuts_before_four_bytes_ = unreachable.empty();
    for (const Token& token : tokens) note_borders(token.bytes);
    for (const Bytes token : unreachable) keep_whole(token);
}

std::uint8_t ScanTable::flags_of(CharClass cls) const {
    const bool cased = pattern_.family == Family::gpt4o;
    const bool grouped = pattern_.digits > 1;  // groups are counted in bytes
    switch (cls) {
        case CharClass::upper: return static_cast<std::uint8_t>(kLetter | (cased ? kUpper : 0));
        case CharClass::lower: return static_cast<std::uint8_t>(kLetter | (cased ? kLower : 0));
        case CharClass::letter: return kLetter;
        case CharClass::mark: return cased ? kMark : pattern_.marks_in_words ? kLetter : 0;
        case CharClass::number: return grouped ? kHard : kNumber;
        case CharClass::space: return kHard;
        case CharClass::other: return 0;
    }
    throw Error("scan: a class outside its enum");
}

// No cut begins or ends at the ends of this token.
void ScanTable::keep_whole(Bytes token) {
    if (token.size() < 3) return;
    const Bytes first = token.substr(0, 3), last = token.substr(token.size() - 3);
    if (byte_at(&first[0]) >= 0xE0 && is_whole(first)) flags_[code_point_of_three(first)] |= kJoinsLeft;
    if (byte_at(&last[0]) >= 0xE0 && is_whole(last)) flags_[code_point_of_three(last)] |= kJoinsRight;
}

// Notes what stands side by side in a token, as far as it can be half of two characters of three bytes.
void ScanTable::note_borders(Bytes token) {
    if (is_ascii(token)) return;
    std::size_t left = 0;
    for (std::size_t border = 1; border < token.size(); ++border) {
        if (is_tail(token[border])) continue;
        std::size_t right_end = border + 1;
        while (right_end < token.size() && is_tail(token[right_end])) ++right_end;
        const bool wide = byte_at(&token[border]) >= 0xE0 && byte_at(&token[border - 1]) >= 0x80;
        if (wide) note_border(token.substr(left, border - left), token.substr(border, right_end - border));
        if (wide && is_four_byte_lead(token[border])) cuts_before_four_bytes_ = false;
        left = border;
    }
}

void ScanTable::note_border(Bytes left, Bytes right) {
    if (is_whole(left) && is_whole(right)) {
        if (left.size() != 3 || right.size() != 3) return;
        const Bits bits = bits_of(code_point_of_three(left), code_point_of_three(right));
        adjoin_[bits.word] |= bits.mask;
    } else if (is_whole(left)) {
        if (left.size() == 3) flags_[code_point_of_three(left)] |= kJoinsRight;
    } else if (is_whole(right)) {
        if (right.size() == 3) flags_[code_point_of_three(right)] |= kJoinsLeft;
    } else {
        halves_[byte_at(&left.back()) & 0x3F] |= static_cast<std::uint16_t>(1u << (byte_at(&right[0]) & 0x0F));
    }
}

std::size_t ScanTable::first_cut(Bytes pretoken) const {
    if (!cuts_before_four_bytes_ || pretoken.size() <= kShortPretoken) return pretoken.size();
    std::size_t cut = 1;
    while (cut < pretoken.size() && !(is_four_byte_lead(pretoken[cut]) && byte_at(&pretoken[cut - 1]) >= 0x80)) ++cut;
    return std::min(cut, pretoken.size());
}

}  // namespace bpetok
