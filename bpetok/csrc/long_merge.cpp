#include "long_merge.h"

#include <algorithm>
#include <bit>

namespace bpetok {
namespace {

constexpr std::size_t kWindow = kShortPretoken;

// What stands this near to a window's end is not kept: it would often be merged otherwise with what follows.
constexpr std::size_t kUnsure = 8;

// So many windows are remembered, by their hash.
constexpr std::size_t kKnownWindows = 64, kLongestKnown = 1024;

}  // namespace

void LongMerger::merge(Bytes text, IdBuffer& ids) {
    const std::size_t before = ids.size();
    std::size_t begin = 0;  // of the last token kept
    std::size_t furthest = 0, size = kWindow;
    for (;;) {
        const Bytes window = text.substr(begin, size);
        const std::span<const Id> merged = merge_window(window);
        const bool any_kept = ids.size() > before;
        if (any_kept && ids.back() != merged.front()) {
            begin = step_back(ids, before, begin, size / 4);
            size *= 2;
            continue;
        }
        const std::span<const Id> fresh = merged.subspan(any_kept ? 1 : 0);
        if (begin + window.size() == text.size()) return ids.append(fresh);

        const auto [count, last_begin] = sure_part(fresh, window.size());
        if (count == 0 || begin + last_begin <= furthest) {
            size *= 2;  // keeping it would lead to where it was, again and again
            continue;
        }
        ids.append(fresh.first(count));
        begin = furthest = begin + last_begin;
        size = window_from(ids.back());
    }
}

// Drops the last token, which begins at `begin`, and those before it up to so many bytes before that; the first
// `before` ids are not its own. Returns where the token begins that is the last one then.
std::size_t LongMerger::step_back(IdBuffer& ids, std::size_t before, std::size_t begin, std::size_t bytes) const {
    const std::size_t goal = begin - std::min(begin, bytes);
    do {
        ids.drop_last();
        if (ids.size() > before) begin -= table_.size_of(ids.back());
    } while (ids.size() > before && begin > goal);
    return begin;
}

// Of the tokens that end where a window does, at `end`: how many are sure, and where the last of those begins.
LongMerger::Sure LongMerger::sure_part(std::span<const Id> tokens, std::size_t end) const {
    const std::size_t limit = end - kUnsure;
    while (!tokens.empty() && end > limit) {
        end -= table_.size_of(tokens.back());
        tokens = tokens.first(tokens.size() - 1);
    }
    return {tokens.size(), tokens.empty() ? 0 : end - table_.size_of(tokens.back())};
}

// The size of a window that begins with this token and shall tell what follows it.
std::size_t LongMerger::window_from(Id token) const {
    return std::max(kWindow, std::bit_ceil(3 * table_.size_of(token)));
}

std::span<const Id> LongMerger::merge_window(Bytes window) {
    if (window.size() > kLongestKnown) return merge_into(unknown_, window);
    if (known_.empty()) known_.resize(kKnownWindows);
    Known& known = known_[hash_bytes(window) % kKnownWindows];
    if (known.bytes == window) return known.ids;
    known.bytes.clear();
    merge_into(known.ids, window);
    known.bytes = window;
    return known.ids;
}

std::span<const Id> LongMerger::merge_into(std::vector<Id>& ids, Bytes window) const {
    ids.resize(window.size());
    ids.resize(table_.merge(window, ids.data()));
    return ids;
}

}  // namespace bpetok
