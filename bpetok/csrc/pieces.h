// pieces.h: texts in pieces that threads may take apart from each other.
#pragma once

#include <span>
#include <vector>

#include "pretokenize.h"
#include "text.h"

namespace bpetok {

// A thread takes about this many bytes at a time: long enough to be worth it, short enough to share evenly.
inline constexpr std::size_t kShareBytes = 1 << 18;

// Visits a text in parts that may be cut into pretokens apart, of about kShareBytes each.
template <class Visit>
void for_each_part(Text rest, Pattern pattern, Visit visit) {
    while (rest.memory() >= 2 * kShareBytes) {
        const std::size_t border = first_sure_border(pattern, rest, kShareBytes / rest.unit());
        if (border == rest.size) break;
        visit(rest.first(border));
        rest = rest.from(border);
    }
    visit(rest);
}

// Part of a text, or all of it.
struct Piece {
    std::size_t text;
    Text part;
};

// The texts, the long ones cut where pretokens surely end.
class Pieces {
  public:
    Pieces(std::span<const Text> texts, Pattern pattern, bool whole) {
        for (std::size_t i = 0; i < texts.size(); ++i) {
            if (whole) {
                pieces_.push_back({i, texts[i]});
            } else {
                for_each_part(texts[i], pattern, [&](const Text& part) { pieces_.push_back({i, part}); });
            }
        }
    }

    const std::vector<Piece>& list() const { return pieces_; }

  private:
    std::vector<Piece> pieces_;
};

// First piece of each share of at least `share_bytes`, and the number of pieces at the end.
inline std::vector<std::size_t> share_starts(const std::vector<Piece>& pieces, std::size_t share_bytes = kShareBytes) {
    std::vector<std::size_t> starts{0};
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        bytes += pieces[i].part.memory();
        if (bytes >= share_bytes || i + 1 == pieces.size()) {
            starts.push_back(i + 1);
            bytes = 0;
        }
    }
    return starts;
}

inline std::size_t total_memory(std::span<const Text> texts) {
    std::size_t total = 0;
    for (const Text& text : texts) total += text.memory();
    return total;
}

}  // namespace bpetok
