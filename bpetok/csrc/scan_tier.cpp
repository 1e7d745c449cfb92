// The block scanner, compiled once for each tier of instructions: BPETOK_TIER names the tier and its namespace.

#include <array>
#include <bit>
#include <cstring>

#include "block.h"
#include "scan.h"
#include "tiers.h"

namespace bpetok::BPETOK_TIER {
namespace {

using Mask = std::uint64_t;

constexpr unsigned kBlock = 64;
// A full block is sure of what begins before this place: what follows may ask for a character behind it.
constexpr unsigned kSure = 61;

constexpr Mask below(unsigned place) { return place < 64 ? (Mask{1} << place) - 1 : ~Mask{0}; }
inline unsigned lowest(Mask mask) { return static_cast<unsigned>(std::countr_zero(mask)); }
inline unsigned highest(Mask mask) { return 63 - static_cast<unsigned>(std::countl_zero(mask)); }
constexpr Mask first_of_runs(Mask mask) { return mask & ~(mask << 1); }

// Where the runs of `mask` that begin at `starts` end: the places behind them.
constexpr Mask behind_runs(Mask mask, Mask starts) { return (mask + starts) & ~mask; }

// The characters of a block by class. A character of several bytes sets the bits of all of them.
struct Classes {
    Mask letter, upper, lower, number;
    Mask blank, newline;  // newlines are blanks
    Mask tail = 0;        // bytes of a character but its first
    Mask cut = 0;         // places within words that no merge crosses
    unsigned sure;        // places below are classified
};

struct WideChar {
    std::uint32_t code_point;
    unsigned bytes;
};

inline WideChar read_wide(const char* p) {
    const std::uint32_t first = byte_at(p);
    const auto tail = [p](int i) { return static_cast<std::uint32_t>(byte_at(p + i) & 0x3F); };
    if (first < 0xE0) return {(first & 0x1F) << 6 | tail(1), 2};
    if (first < 0xF0) return {(first & 0x0F) << 12 | tail(1) << 6 | tail(2), 3};
    return {(first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4};
}

constexpr Mask when(unsigned flag, Mask bits) { return flag ? bits : 0; }

// What is sure before a place that may hold a blank: blanks right before it are cut as the whole run asks, and of
// other characters the last may be cut as what follows asks.
inline unsigned sure_before(unsigned place, Mask blank) {
    if (place == 0) return 0;
    if (!(blank >> (place - 1) & 1)) return place - 1;
    const Mask others = ~blank & below(place);
    return others ? highest(others) + 2 : 1;
}

// The letters of three bytes, one after the other, and whether no merge crosses the border to the one before.
class WideLetters {
  public:
    explicit WideLetters(const ScanTable& table) : table_(table) {}

    // The bit of this letter's place if there is a cut before it.
    Mask cut_before(unsigned place, std::uint32_t code_point, std::uint8_t flags) {
        const bool cut = place == end_ && !(flags_ & ScanTable::kJoinsRight) && !(flags & ScanTable::kJoinsLeft) &&
                         !table_.adjoin(code_point_, code_point);
        code_point_ = code_point;
        flags_ = flags;
        end_ = place + 3;
        return static_cast<Mask>(cut) << place;
    }

  private:
    const ScanTable& table_;
    std::uint32_t code_point_ = 0;  // of the last letter
    std::uint8_t flags_ = 0;
    unsigned end_ = kBlock;
};

// Adds the characters that are not ASCII.
template <Family family>
void classify_wide(const ScanTable& table, const char* p, Mask leads, Classes& c) {
    constexpr std::uint8_t kJoins = ScanTable::kJoinsLeft | ScanTable::kJoinsRight;
    WideLetters letters(table);
    for (; leads; leads &= leads - 1) {
        const unsigned place = lowest(leads);
        const WideChar wide = read_wide(p + place);
        std::uint8_t flags = wide.bytes < 4 ? table.flags(wide.code_point) : table.flags_beyond(wide.code_point);
        if (wide.bytes == 3 && (flags & ~kJoins) == ScanTable::kLetter) {
            c.letter |= Mask{7} << place;
            c.cut |= letters.cut_before(place, wide.code_point, flags);
            continue;
        }
        if (family == Family::gpt4o && flags & ScanTable::kMark)
            flags |= place > 0 && c.letter >> (place - 1) & 1 ? ScanTable::kLetter : ScanTable::kHard;
        if (flags & ScanTable::kHard) {
            c.sure = sure_before(place, c.blank);
            return;
        }
        const Mask bits = below(wide.bytes) << place;
        c.letter |= when(flags & ScanTable::kLetter, bits);
        c.number |= when(flags & ScanTable::kNumber, bits);
        if (family == Family::gpt4o) {
            c.upper |= when(flags & ScanTable::kUpper, bits);
            c.lower |= when(flags & ScanTable::kLower, bits);
        }
        if (wide.bytes == 3 && flags & ScanTable::kLetter) c.cut |= letters.cut_before(place, wide.code_point, flags);
    }
}

// `extent`: how many bytes at p are text; the others are newlines.
template <Family family>
Classes classify(const ScanTable& table, const char* p, unsigned extent) {
    const Block block(p);
    Classes c;
    c.upper = family == Family::gpt4o ? block.between('A', 'Z') : 0;
    c.lower = family == Family::gpt4o ? block.between('a', 'z') : 0;
    c.letter = family == Family::gpt4o ? c.upper | c.lower : block.lower().between('a', 'z');
    c.number = block.between('0', '9');
    c.blank = block.equal(' ') | block.between('\t', '\r');
    c.newline = block.equal('\n') | block.equal('\r');
    c.sure = extent < kBlock ? extent : kSure;
    if (const Mask wide = block.not_ascii(); wide) {
        c.tail = block.between(0x80, 0xBF);
        classify_wide<family>(table, p, wide & ~c.tail, c);
    }
    return c;
}

// The first of each `most` numbers of a run. Requires: most > 1, numbers are one byte long.
inline Mask groups_of_numbers(Mask number, unsigned most) {
    Mask starts = 0;
    for (Mask next = first_of_runs(number); next;) {
        starts |= next;
        for (unsigned i = 0; i < most; ++i) next = next << 1 & number;
    }
    return starts;
}

inline Mask number_starts(const Pattern& pattern, const Classes& c) {
    if (pattern.digits == 0) return first_of_runs(c.number);
    if (pattern.digits == 1) return c.number & ~c.tail;
    return groups_of_numbers(c.number, pattern.digits);
}

struct Starts {
    Mask mask;      // where pretokens begin, besides the block's own begin
    Mask cut;       // where words may be cut
    unsigned sure;  // no place below is wrong
};

// Contractions that are pretokens of their own: at apostrophes that begin a pretoken.
inline void start_contractions(Contractions kind, Mask apostrophes, const char* p, const char* end, Mask& starts) {
    for (; apostrophes; apostrophes &= apostrophes - 1) {
        const unsigned place = lowest(apostrophes);
        const auto length = static_cast<unsigned>(contraction_length(kind, p + place, end));
        if (length == 0) continue;
        starts &= ~(Mask{2} << place);
        if (place + length < kBlock) starts |= Mask{1} << (place + length);
    }
}

// Contractions that end a word: at apostrophes behind a letter. One that follows another at once begins a word.
inline void join_contractions(Contractions kind, Mask apostrophes, const char* p, const char* end, Starts& starts) {
    unsigned last_end = kBlock;
    for (; apostrophes; apostrophes &= apostrophes - 1) {
        const unsigned place = lowest(apostrophes);
        const auto length = static_cast<unsigned>(contraction_length(kind, p + place, end));
        if (length == 0) continue;
        if (place == last_end) {
            starts.sure = place < starts.sure ? place : starts.sure;
            return;
        }
        last_end = place + length;
        starts.mask &= ~(below(length) << place);
        if (last_end < kBlock) starts.mask |= Mask{1} << last_end;
    }
}

struct Text {
    const char* block;  // 64 bytes, perhaps a padded copy
    const char* p;      // the same place in the text
    const char* end;    // of the text
    unsigned extent;    // bytes of text in the block, at most 64
};

inline Starts gpt2_starts(const ScanTable& table, const Text& text) {
    const Classes c = classify<Family::gpt2>(table, text.block, text.extent);
    const Block block(text.block);
    const Mask space = block.equal(' ');
    const Mask symbol = ~(c.letter | c.number | c.blank);
    const Mask numbers = number_starts(table.pattern(), c);
    const Mask words = (first_of_runs(c.letter) | numbers | first_of_runs(symbol)) & ~(space << 1);
    const Mask last_blanks = c.blank & ~(c.blank >> 1) & (c.blank << 1);
    Starts starts{words | first_of_runs(c.blank) | last_blanks, c.cut, c.sure};
    const Mask apostrophes = block.equal('\'') & first_of_runs(symbol) & ~(space << 1);
    start_contractions(table.pattern().contractions, apostrophes, text.p, text.end, starts.mask);
    return starts;
}

// What gpt4 and gpt4o have in common: all but case and contractions.
struct Gpt4Starts {
    Starts starts;
    Mask own_symbols;      // symbols that begin a pretoken
    Mask behind_newlines;  // behind the newlines that symbols take along
};

inline Gpt4Starts gpt4_common(const Classes& c, Mask space, Mask numbers) {
    const Mask symbol = ~(c.letter | c.number | c.blank);
    const Mask gap = c.blank & ~c.newline;
    const Mask own_symbols = first_of_runs(symbol) & ~(space << 1);
    const Mask first_symbols = symbol & ~(symbol & ~c.tail & (symbol << 1));  // of each run, its first character
    const Mask behind_lone_symbol = behind_runs(first_symbols, own_symbols);
    const Mask words = first_of_runs(c.letter) & ~(gap << 1) & ~behind_lone_symbol;
    const Mask taken_newlines = c.newline & (symbol << 1);  // the first ones of their runs
    const Mask blanks = first_of_runs(c.blank) & ~taken_newlines;
    const Mask indents = gap & (c.newline << 1);
    const Mask last_gaps = gap & (c.blank << 1) & ~(c.blank >> 1);

    Gpt4Starts out{{words | numbers | own_symbols | blanks | indents | last_gaps, c.cut, c.sure}, own_symbols, 0};
    out.behind_newlines = behind_runs(c.newline, taken_newlines);
    // An indent that newlines follow again is none; nor is it known for one that leaves the block.
    const Mask sum = gap + indents;
    const Mask false_ends = sum & ~gap & c.newline;
    if (false_ends || sum < gap) {
        const Mask false_indents = false_ends ? indents & below(lowest(false_ends)) : indents;
        const unsigned place = highest(false_indents);
        out.starts.sure = place < out.starts.sure ? place : out.starts.sure;
    }
    return out;
}

inline Starts gpt4_starts(const ScanTable& table, const Text& text) {
    const Classes c = classify<Family::gpt4>(table, text.block, text.extent);
    const Block block(text.block);
    Gpt4Starts out = gpt4_common(c, block.equal(' '), number_starts(table.pattern(), c));
    const Mask apostrophes = block.equal('\'') & out.own_symbols;
    start_contractions(table.pattern().contractions, apostrophes, text.p, text.end, out.starts.mask);
    return out.starts;
}

inline Starts gpt4o_starts(const ScanTable& table, const Text& text) {
    const Classes c = classify<Family::gpt4o>(table, text.block, text.extent);
    const Block block(text.block);
    Gpt4Starts out = gpt4_common(c, block.equal(' '), number_starts(table.pattern(), c));
    Starts& starts = out.starts;
    const Mask capitals = c.upper & ~c.tail;
    const Mask caseless = c.letter & ~(c.upper | c.lower);
    starts.mask |= capitals & (c.lower << 1);
    const Mask hard = (capitals & (caseless << 1)) | (block.equal('/') & out.behind_newlines);
    if (hard) starts.sure = lowest(hard) < starts.sure ? lowest(hard) : starts.sure;
    join_contractions(table.pattern().contractions, block.equal('\'') & (c.letter << 1), text.p, text.end, starts);
    return starts;
}

template <Family family>
Starts block_starts(const ScanTable& table, const Text& text) {
    if constexpr (family == Family::gpt2) return gpt2_starts(table, text);
    if constexpr (family == Family::gpt4) return gpt4_starts(table, text);
    if constexpr (family == Family::gpt4o) return gpt4o_starts(table, text);
}

// Writes p + i for each bit i of the mask; up to 7 more entries are written and do not count.
inline std::size_t write_places(Mask mask, const char* p, const char** out) {
    const auto n = static_cast<std::size_t>(std::popcount(mask));
    for (std::size_t written = 0; written < n; written += 8) {
        for (std::size_t i = 0; i < 8; ++i, mask &= mask - 1) out[written + i] = p + std::countr_zero(mask);
    }
    return n;
}

// Writes behind n starts where the parts of a pretoken begin whose end is known. Returns how many starts there are
// then.
std::size_t write_parts(const ScanTable& table, Rest& rest, const char** starts, std::size_t n) {
    for (; n < kScanChunk && rest.position < rest.known_end; ++n) {
        starts[n] = rest.position;
        rest.position += table.first_cut({rest.position, rest.known_end});
    }
    if (rest.position == rest.known_end) rest.pretoken = rest.position;
    return n;
}

template <Family family>
std::size_t scan_family(const ScanTable& table, Rest& rest, const char** starts) {
    std::array<char, kBlock + 4> padded;
    std::size_t n = 0;
    while (n < kScanChunk && rest.position < rest.end) {
        if (rest.position < rest.known_end) [[unlikely]] {
            n = write_parts(table, rest, starts, n);
            continue;
        }
        const auto left = static_cast<std::size_t>(rest.end - rest.position);
        Text text{rest.position, rest.position, rest.end, kBlock};
        if (left < kBlock) {
            padded.fill('\n');
            std::memcpy(padded.data(), rest.position, left);
            text.block = padded.data();
            text.extent = static_cast<unsigned>(left);
        }
        const Starts found = block_starts<family>(table, text);
        const Mask begins = found.mask & ~Mask{1} & below(found.sure);
        const Mask places = begins | 1 | (found.cut & below(found.sure));
        if (found.sure == left) {
            n += write_places(places, rest.position, starts + n);
            rest.position = rest.end;
        } else if (places > 1) {
            const unsigned next = highest(places);
            n += write_places(places & below(next), rest.position, starts + n);
            if (begins) rest.pretoken = rest.position + highest(begins);
            rest.position += next;
        } else {
            rest.known_end = pretoken_end(table.pattern(), rest.pretoken, rest.end);
        }
    }
    return n;
}

}  // namespace

std::size_t scan(const ScanTable& table, Rest& rest, const char** starts) {
    switch (table.pattern().family) {
        case Family::gpt2: return scan_family<Family::gpt2>(table, rest, starts);
        case Family::gpt4: return scan_family<Family::gpt4>(table, rest, starts);
        case Family::gpt4o: return scan_family<Family::gpt4o>(table, rest, starts);
        case Family::none: break;
    }
    rest.known_end = rest.end;
    return write_parts(table, rest, starts, 0);
}

}  // namespace bpetok::BPETOK_TIER
