#include "pretokenize.h"

#include <algorithm>

namespace bpetok {
namespace {

constexpr bool is_letter(CharClass cls) {
    return cls == CharClass::upper || cls == CharClass::lower || cls == CharClass::letter;
}

// [^\s\p{L}\p{N}] of all three patterns
constexpr bool is_symbol(CharClass cls) { return cls == CharClass::other || cls == CharClass::mark; }

// o200k's [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and [\p{Ll}\p{Lm}\p{Lo}\p{M}]; letters without case and marks are in both
constexpr bool is_caseless(CharClass cls) { return cls == CharClass::letter || cls == CharClass::mark; }
constexpr bool is_upper_like(CharClass cls) { return cls == CharClass::upper || is_caseless(cls); }
constexpr bool is_lower_like(CharClass cls) { return cls == CharClass::lower || is_caseless(cls); }

constexpr bool is_newline(char c) { return c == '\n' || c == '\r'; }

// [^\r\n\p{L}\p{N}]: what may stand before a word in the gpt4 and gpt4o patterns
bool is_word_prefix(const char* p, CharClass cls) {
    return !is_letter(cls) && cls != CharClass::number && !is_newline(*p);
}

template <class Accept>
const char* skip_class(const char* p, const char* end, Accept accept) {
    while (p < end) {
        const Char c = read_char(p);
        if (!accept(c.cls)) break;
        p += c.length;
    }
    return p;
}

const char* skip_letters(const char* p, const char* end) { return skip_class(p, end, is_letter); }
const char* skip_symbols(const char* p, const char* end) { return skip_class(p, end, is_symbol); }
// At most `most` numbers, any number of them if that is 0.
const char* skip_numbers(const char* p, const char* end, std::size_t most) {
    for (std::size_t i = 0; p < end && (most == 0 || i < most); ++i) {
        const Char c = read_char(p);
        if (c.cls != CharClass::number) break;
        p += c.length;
    }
    return p;
}

struct SpaceRun {
    const char* end;
    const char* last;           // where its last character begins
    const char* after_newline;  // behind its last \r or \n, nullptr without one
};

SpaceRun read_space_run(const char* p, const char* end) {
    SpaceRun run{p, p, nullptr};
    while (run.end < end) {
        const Char c = read_char(run.end);
        if (c.cls != CharClass::space) break;
        run.last = run.end;
        run.end += c.length;
        if (is_newline(*run.last)) run.after_newline = run.end;
    }
    return run;
}

// `\s+(?!\S)|\s`: the run without its last character, which belongs to what follows; all of it at the text's end
const char* end_of_plain_spaces(const char* p, const char* end, const SpaceRun& run) {
    return run.end == end || run.last == p ? run.end : run.last;
}

const char* gpt2_end(Pattern pattern, const char* p, const char* end) {
    if (const std::size_t length = contraction_length(pattern.contractions, p, end)) return p + length;
    const bool after_space = *p == ' ' && p + 1 < end;
    const char* word = after_space ? p + 1 : p;
    const CharClass cls = read_char(word).cls;
    if (is_letter(cls)) return skip_letters(word, end);
    if (cls == CharClass::number) return skip_numbers(word, end, pattern.digits);
    if (is_symbol(cls)) return skip_symbols(word, end);
    return end_of_plain_spaces(p, end, read_space_run(p, end));
}

const char* gpt4_end(Pattern pattern, const char* p, const char* end) {
    const bool marks = pattern.marks_in_words;
    const auto in_word = [marks](CharClass cls) { return is_letter(cls) || (marks && cls == CharClass::mark); };
    const auto in_symbols = [marks](CharClass cls) { return is_symbol(cls) && !(marks && cls == CharClass::mark); };
    if (const std::size_t length = contraction_length(pattern.contractions, p, end)) return p + length;
    const Char first = read_char(p);
    if (in_word(first.cls)) return skip_class(p, end, in_word);
    if (first.cls == CharClass::number) return skip_numbers(p, end, pattern.digits);
    const char* rest = p + first.length;
    const bool has_word = rest < end && in_word(read_char(rest).cls);
    if (is_word_prefix(p, first.cls) && has_word) return skip_class(rest, end, in_word);
    const char* symbols = *p == ' ' ? rest : p;
    const char* symbols_end = skip_class(symbols, end, in_symbols);
    if (symbols_end > symbols) {
        while (symbols_end < end && is_newline(*symbols_end)) ++symbols_end;
        return symbols_end;
    }
    const SpaceRun run = read_space_run(p, end);
    if (run.end == end && pattern.whole_final_blanks) return end;  // `\s++$` comes first
    return run.after_newline ? run.after_newline : end_of_plain_spaces(p, end, run);
}

struct Word {
    const char* end;  // where it began, if there is none
    bool has_lower;   // by the first of the two word alternatives, which is preferred
};

// The words of o200k: `U*W+`, else `U+W*`, with U upper-like and W lower-like. Capitals that no lower-like character
// follows are given back up to the last caseless one, which can stand for the W.
Word read_cased_word(const char* p, const char* end) {
    const char* caseless_end = nullptr;
    const char* upper_end = p;
    while (upper_end < end) {
        const Char c = read_char(upper_end);
        if (!is_upper_like(c.cls)) break;
        upper_end += c.length;
        if (is_caseless(c.cls)) caseless_end = upper_end;
    }
    const char* lower_end = skip_class(upper_end, end, is_lower_like);
    if (lower_end > upper_end) return {lower_end, true};
    if (caseless_end) return {caseless_end, true};
    return {upper_end, false};
}

// End of `[^\r\n\p{L}\p{N}]?` and a word at p, nullptr if there is none.
const char* gpt4o_word_end(const char* p, const char* end, const Char first) {
    if (is_letter(first.cls)) return read_cased_word(p, end).end;
    if (!is_word_prefix(p, first.cls)) return nullptr;
    const char* rest = p + first.length;
    const Word word = read_cased_word(rest, end);
    if (word.has_lower) return word.end;
    if (first.cls == CharClass::mark) return read_cased_word(p, end).end;  // a mark is prefix or word; word wins here
    return word.end > rest ? word.end : nullptr;
}

const char* gpt4o_end(Pattern pattern, const char* p, const char* end) {
    const Char first = read_char(p);
    if (const char* word_end = gpt4o_word_end(p, end, first))
        return word_end + contraction_length(pattern.contractions, word_end, end);
    if (first.cls == CharClass::number) return skip_numbers(p, end, pattern.digits);
    const char* symbols = *p == ' ' ? p + 1 : p;
    const char* symbols_end = skip_symbols(symbols, end);
    if (symbols_end > symbols) {
        while (symbols_end < end && (is_newline(*symbols_end) || *symbols_end == '/')) ++symbols_end;
        return symbols_end;
    }
    const SpaceRun run = read_space_run(p, end);
    return run.after_newline ? run.after_newline : end_of_plain_spaces(p, end, run);
}

}  // namespace

const char* pretoken_end(Pattern pattern, const char* p, const char* end) {
    switch (pattern.family) {
        case Family::gpt2: return gpt2_end(pattern, p, end);
        case Family::gpt4: return gpt4_end(pattern, p, end);
        case Family::gpt4o: return gpt4o_end(pattern, p, end);
        case Family::none: return end;
    }
    throw Error("pretokenize: a pattern outside its enum");
}

Pattern pattern_named(Bytes name) {
    using enum Contractions;
    struct Named {
        Bytes name;
        Pattern pattern;
    };
    constexpr Named kNamed[] = {
        {"none", {}},
        {"gpt2", {Family::gpt2, lower_case, 0, true, false}},
        {"gpt4", {Family::gpt4, unicode_case, 3, true, false}},
        {"gpt4o", {Family::gpt4o, unicode_case, 3, false, false}},
        {"llama3", {Family::gpt4, unicode_case, 3, false, false}},
        {"nanochat", {Family::gpt4, unicode_case, 2, false, false}},
        {"qwen2", {Family::gpt4, unicode_case, 1, false, false}},
        {"qwen3_5", {Family::gpt4, unicode_case, 1, false, true}},
        {"tekken", {Family::gpt4o, none, 1, false, false}},
        {"llama3_ascii", {Family::gpt4, ascii_case, 3, false, false}},
        {"qwen2_ascii", {Family::gpt4, ascii_case, 1, false, false}},
        {"qwen3_5_ascii", {Family::gpt4, ascii_case, 1, false, true}},
        {"gpt4o_ascii", {Family::gpt4o, ascii_case, 3, false, false}},
    };
    for (const Named& named : kNamed)
        if (named.name == name) return named.pattern;
    throw Error("pretokenize: pattern must be the name of one that has a scanner, got " + std::string(name));
}

PretokenCursor::PretokenCursor(Pattern pattern, Bytes text)
    : pattern_(pattern), position_(text.data()), segment_end_(text.data()), text_end_(text.data() + text.size()) {
    if (pattern.family == Family::none) segment_end_ = text_end_;
}

Bytes PretokenCursor::next() {
    const char* begin = position_;
    if (begin == text_end_) return {};
    if (begin == segment_end_) {
        const char* invalid_end = start_next_segment();
        if (invalid_end > begin) return {begin, static_cast<std::size_t>(invalid_end - begin)};
    }
    position_ = pretoken_end(pattern_, begin, segment_end_);
    return {begin, static_cast<std::size_t>(position_ - begin)};
}

// Sets the segment that begins here or behind the invalid bytes here; returns the end of those.
const char* PretokenCursor::start_next_segment() {
    position_ = skip_invalid(position_, text_end_);
    segment_end_ = skip_valid(position_, text_end_);
    return position_;
}

namespace {

// Whether a pretoken of any family ends between two characters whatever stands around: behind a letter, before what is
// no letter, no mark and no apostrophe. What is left of it is cut as if the text ended there.
bool ends_between(CharClass left, CharClass right) {
    return is_letter(left) && !is_letter(right) && right != CharClass::mark;
}

bool is_sure_border(Bytes text, std::size_t place) {
    const char *begin = text.data(), *p = begin + place, *end = begin + text.size();
    if (utf8_length(p, end) == 0 || *p == '\'') return false;
    const char* left = p - 1;
    while (left > begin && p - left < 4 && (byte_at(left) & 0xC0) == 0x80) --left;
    const bool is_whole = utf8_length(left, end) == static_cast<std::size_t>(p - left);
    return is_whole && ends_between(read_char(left).cls, read_char(p).cls);
}

// Two surrogates side by side are halves of one character, so none is taken for a character here.
template <class Point>
bool is_sure_border(const Point* points, std::size_t place) {
    const std::uint32_t left = points[place - 1], right = points[place];
    const bool is_half = (right & ~0x7FFu) == 0xD800;
    return !is_half && right != '\'' && ends_between(class_of(left), class_of(right));
}

template <class Test>
std::size_t first_place(std::size_t from, std::size_t size, Test test) {
    std::size_t place = std::max<std::size_t>(from, 1);
    while (place < size && !test(place)) ++place;
    return std::min(place, size);
}

template <class Point>
std::size_t first_sure_border_of(const Text& text, std::size_t from) {
    const auto* points = static_cast<const Point*>(text.data);
    return first_place(from, text.size, [points](std::size_t place) { return is_sure_border(points, place); });
}

}  // namespace

std::size_t first_sure_border(Pattern pattern, const Text& text, std::size_t from) {
    if (pattern.family == Family::none) return text.size;
    switch (text.kind) {
        case Text::Kind::points1: return first_sure_border_of<std::uint8_t>(text, from);
        case Text::Kind::points2: return first_sure_border_of<std::uint16_t>(text, from);
        case Text::Kind::points4: return first_sure_border_of<std::uint32_t>(text, from);
        default: break;
    }
    const Bytes bytes = text.bytes();
    return first_place(from, text.size, [bytes](std::size_t place) { return is_sure_border(bytes, place); });
}

std::size_t last_sure_border(Pattern pattern, Bytes text) {
    if (pattern.family == Family::none || text.empty()) return 0;
    std::size_t place = text.size() - 1;
    while (place > 0 && !is_sure_border(text, place)) --place;
    return place;
}

}  // namespace bpetok
