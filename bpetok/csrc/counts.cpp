#include "counts.h"

#include <algorithm>

#include "hash.h"

namespace bpetok {
namespace {

constexpr std::size_t kArenaBlock = 1 << 20;

}  // namespace

PretokenCounts::PretokenCounts() : slots_(1024) {}

std::size_t PretokenCounts::place(Bytes pretoken) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = hash_bytes(pretoken) & mask;
    while (slots_[i] != 0 && entries_[slots_[i] - 1].pretoken != pretoken) i = (i + 1) & mask;
    return i;
}

void PretokenCounts::grow() {
    slots_.assign(slots_.size() * 2, 0);
    for (std::size_t i = 0; i < entries_.size(); ++i) slots_[place(entries_[i].pretoken)] = i + 1;
}

Bytes PretokenCounts::keep(Bytes pretoken) {
    if (arena_.empty() || arena_.back().capacity() - arena_.back().size() < pretoken.size()) {
        arena_.emplace_back();
        arena_.back().reserve(std::max(kArenaBlock, pretoken.size()));
    }
    std::string& block = arena_.back();
    const std::size_t start = block.size();
    block += pretoken;
    return {block.data() + start, pretoken.size()};
}

void PretokenCounts::add(Bytes pretoken, Count times) {
    if (times < 1) throw DataError("counts: a count must be at least 1, got " + std::to_string(times));
    Count total = 0;
    if (__builtin_add_overflow(total_, times, &total)) throw DataError("counts: the total must fit 64 bits");
    total_ = total;
    std::size_t& slot = slots_[place(pretoken)];
    if (slot != 0) {
        entries_[slot - 1].count += times;
        return;
    }
    entries_.push_back({keep(pretoken), times});
    slot = entries_.size();
    if (entries_.size() * 2 > slots_.size()) grow();
}

void PretokenCounts::add_text(Pattern pattern, Bytes text) {
    PretokenCursor cursor(pattern, text);
    for (Bytes pretoken = cursor.next(); !pretoken.empty(); pretoken = cursor.next()) add(pretoken, 1);
}

std::size_t PretokenCounts::add_stable(Pattern pattern, Bytes text) {
    return for_each_stable_pretoken(pattern, text, [&](Bytes pretoken) { add(pretoken, 1); });
}

void PretokenCounts::merge(const PretokenCounts& other) {
    for (const Entry& entry : other.entries_) add(entry.pretoken, entry.count);
}

}  // namespace bpetok
