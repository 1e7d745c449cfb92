// pretokenize.h: text -> pretokens. The slow twin that defines the result is `split` in reference.py.
#pragma once

#include <array>

#include "types.h"
#include "unicode.h"

namespace bpetok {

// How text is cut. `none`: the whole text is one pretoken. The others are spelled out in patterns.py.
enum class Pattern : std::uint8_t { none, gpt2, gpt4, gpt4o };

// The pattern called `name`. Throws Error if there is none.
Pattern pattern_named(Bytes name);

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
