// pretokenize.h: text -> pretokens. The slow twin that defines the result is `split` in reference.py.
#pragma once

#include <array>

#include "text.h"
#include "types.h"
#include "unicode.h"

namespace bpetok {

// The families of patterns, spelled out in patterns.py. `none`: the whole text is one pretoken.
enum class Family : std::uint8_t { none, gpt2, gpt4, gpt4o };

// What counts as a contraction ('s 't 'm 'd 'll 've 're). Unicode's case folding takes U+017F for an s, ASCII's not.
enum class Contractions : std::uint8_t { none, lower_case, ascii_case, unicode_case };

// How text is cut: a family, and in what its members differ.
struct Pattern {
    Family family = Family::none;
    Contractions contractions = Contractions::none;
    std::uint8_t digits = 0;         // most numbers in a pretoken; 0: any number of them
    bool whole_final_blanks = true;  // blanks at a text's end are one pretoken, whatever newlines they hold
    bool marks_in_words = false;     // gpt4: words take marks as they take letters

    bool operator==(const Pattern&) const = default;
};

// The pattern called `name`, as patterns.py has it. Throws Error if there is none.
Pattern pattern_named(Bytes name);

// Bytes of a contraction at p, 0 if there is none.
inline std::size_t contraction_length(Contractions kind, const char* p, const char* end) {
    if (kind == Contractions::none || end - p < 2 || *p != '\'') return 0;
    const bool any_case = kind != Contractions::lower_case;
    const auto fold = [any_case](char c) { return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    const char first = fold(p[1]);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if (end - p < 3) return 0;
    const bool long_s = p[1] == '\xC5' && p[2] == '\xBF';  // U+017F
    if (kind == Contractions::unicode_case && long_s) return 3;
    const char second = fold(p[2]);
    const bool double_letter = (first == 'l' && second == 'l') || ((first == 'v' || first == 'r') && second == 'e');
    return double_letter ? 3 : 0;
}

// The end of the pretoken that begins at p. Requires: [p, end) is valid UTF-8 and not empty.
const char* pretoken_end(Pattern pattern, const char* p, const char* end);

// Walks over the pretokens of a text, in order. Together they cover every byte of it.
// Bytes that are not UTF-8: each maximal run of them is a pretoken of its own, and the valid text on either side
// is cut as if it stood alone. Time: linear in the text, whatever it holds; no recursion, no allocation.
class PretokenCursor {
  public:
    PretokenCursor(Pattern pattern, Bytes text);

    // The next pretoken, empty when the text is used up.
    Bytes next();

  private:
    const char* start_next_segment();

    Pattern pattern_;
    const char* position_;
    const char* segment_end_;  // valid UTF-8 up to here
    const char* text_end_;
};

// Visits the parts of bytes that are valid UTF-8, and the invalid runs between them.
template <class Valid, class Invalid>
void for_each_segment(Bytes bytes, Valid valid, Invalid invalid) {
    const char *p = bytes.data(), *end = p + bytes.size();
    while (p < end) {
        const char* valid_end = skip_valid(p, end);
        if (valid_end > p) valid(Bytes(p, static_cast<std::size_t>(valid_end - p)));
        p = skip_invalid(valid_end, end);
        if (p > valid_end) invalid(Bytes(valid_end, static_cast<std::size_t>(p - valid_end)));
    }
}

// The first place at or behind `from` where a pretoken ends whatever else the text holds, so that the parts on both
// sides may be cut into pretokens apart; the text's size if there is none. In the unit that the text's size has.
std::size_t first_sure_border(Pattern pattern, const Text& text, std::size_t from);

// The last such place inside the text, 0 if there is none. Text may go on after `text`.
std::size_t last_sure_border(Pattern pattern, Bytes text);

// Visits the pretokens whose borders no further text can move, and returns how many bytes they cover.
// Text may go on after `text`, so its last few pretokens are still open. The patterns look at most two pretokens
// ahead (o200k: a modifier letter, capitals, then a contraction), and a character cut in half is one more.
template <class Visit>
std::size_t for_each_stable_pretoken(Pattern pattern, Bytes text, Visit&& visit) {
    constexpr std::size_t kOpen = 4;
    std::array<Bytes, kOpen> open;
    PretokenCursor cursor(pattern, text);
    std::size_t seen = 0;
    std::size_t covered = 0;
    for (Bytes pretoken = cursor.next(); !pretoken.empty(); pretoken = cursor.next()) {
        Bytes& oldest = open[seen++ % kOpen];
        if (!oldest.empty()) {
            visit(oldest);
            covered += oldest.size();
        }
        oldest = pretoken;
    }
    return covered;
}

}  // namespace bpetok
