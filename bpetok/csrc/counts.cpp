#include "counts.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "parallel.h"
#include "pieces.h"

namespace bpetok {
namespace {

constexpr std::size_t kArenaBlock = 1 << 20;
// So many bytes of text are counted before others have their turn: the progress, and whoever wants to stop it.
constexpr std::size_t kTurnBytes = 16 << 20;

std::uint32_t low_half(std::uint64_t hash) { return static_cast<std::uint32_t>(hash); }

}  // namespace

PretokenCounts::PretokenCounts() : key_of_(process_seed()), slots_(1024) {}

// ---- the table -----------------------------------------------------------------------------------------------

bool PretokenCounts::is(const Entry& entry, const PretokenKey& key, Bytes pretoken) const {
    if (entry.high != key.high) return false;
    return key.is_long() ? longs_[entry.low] == pretoken : entry.low == key.low;
}

void PretokenCounts::grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    const std::size_t mask = slots_.size() - 1;
    for (const Slot& slot : old) {
        if (slot.entry == 0) continue;
        std::size_t i = slot.hash & mask;
        while (slots_[i].entry != 0) i = (i + 1) & mask;
        slots_[i] = slot;
    }
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

void PretokenCounts::raise_total(Count times) {
    Count total = 0;
    if (__builtin_add_overflow(total_, times, &total)) throw DataError("counts: the total must fit 64 bits");
    total_ = total;
}

// Requires: the total has been raised, so that no count can leave 64 bits.
void PretokenCounts::add_key(const PretokenKey& key, Bytes pretoken, Count times) {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = key.hash & mask;
    for (; slots_[i].entry != 0; i = (i + 1) & mask) {
        if (slots_[i].hash != low_half(key.hash)) continue;
        Entry& entry = entries_[slots_[i].entry - 1];
        if (!is(entry, key, pretoken)) continue;
        entry.count += times;
        return;
    }
    if (entries_.size() >= std::numeric_limits<std::uint32_t>::max() - 1)
        throw DataError("counts: there must be fewer than 2^32 distinct pretokens");
    std::uint64_t low = key.low;
    if (key.is_long()) {
        low = longs_.size();
        longs_.push_back(keep(pretoken));
    }
    distinct_bytes_ += pretoken.size();
    entries_.push_back({low, key.high, times});
    slots_[i] = {low_half(key.hash), static_cast<std::uint32_t>(entries_.size())};
    if (entries_.size() * 2 > slots_.size()) grow();
}

void PretokenCounts::add(Bytes pretoken, Count times) {
    if (pretoken.empty()) throw DataError("counts: a pretoken must not be empty");
    if (times < 1) throw DataError("counts: a count must be at least 1, got " + std::to_string(times));
    raise_total(times);
    add_key(key_of_(pretoken.data(), pretoken.size(), pretoken.data() + pretoken.size()), pretoken, times);
}

void PretokenCounts::merge(const PretokenCounts& other) {
    for (std::size_t i = 0; i < other.size(); ++i) add(other.item(i).pretoken, other.item(i).count);
}

void PretokenCounts::merge(PretokenCounts&& other) {
    if (size() > 0) return merge(std::as_const(other));
    std::shared_ptr<const ScanTable> scan = std::move(scan_);
    *this = std::move(other);
    scan_ = std::move(scan);
}

// ---- text ----------------------------------------------------------------------------------------------------

void PretokenCounts::use(Pattern pattern) {
    if (!scan_ || scan_->pattern() != pattern) scan_ = std::make_shared<ScanTable>(pattern);
}

void PretokenCounts::add_text(Pattern pattern, Bytes text) {
    use(pattern);
    add_part(text, false);
}

std::size_t PretokenCounts::add_texts(Pattern pattern, std::span<const Text> texts, std::size_t threads,
                                      const Progress& progress) {
    use(pattern);
    const std::size_t memory = total_memory(texts);
    threads = std::clamp<std::size_t>(memory / kShareBytes, 1, threads);
    const Pieces pieces(texts, pattern, false);
    const std::vector<std::size_t> starts = share_starts(pieces.list(), std::min(memory, kTurnBytes) / threads + 1);
    const auto count_share = [&](PretokenCounts& counts, std::size_t share) {
        std::size_t bytes = 0;
        for (std::size_t i = starts[share]; i < starts[share + 1]; ++i) {
            const Text text = narrow(pieces.list()[i].part, counts.scratch_);
            counts.add_part(text.bytes(), text.kind == Text::Kind::valid_utf8);
            bytes += text.size;
        }
        return bytes;
    };
    std::size_t bytes = 0;
    for (std::size_t first = 0; first + 1 < starts.size(); first += threads) {
        const std::size_t shares = std::min(threads, starts.size() - 1 - first);
        if (shares == 1) {
            bytes += count_share(*this, first);
        } else {
            std::vector<PretokenCounts> parts(shares);
            std::vector<std::size_t> sizes(shares);
            parallel_for(shares, threads, [&](std::size_t i, std::size_t) {
                parts[i].scan_ = scan_;
                sizes[i] = count_share(parts[i], first + i);
            });
            for (std::size_t i = 0; i < shares; ++i) {
                merge(std::move(parts[i]));
                bytes += sizes[i];
            }
        }
        progress(bytes);
    }
    return bytes;
}

void PretokenCounts::add_part(Bytes text, bool is_valid) {
    if (is_valid || scan_->pattern().family == Family::none) return add_valid(text);
    for_each_segment(text, [this](Bytes valid) { add_valid(valid); }, [this](Bytes invalid) { add(invalid, 1); });
}

void PretokenCounts::add_valid(Bytes text) {
    const Tier& tier = tier_in_use();
    const char* end = text.data() + text.size();
    for (Rest rest(text); rest.position < end;) {
        const std::size_t n = tier.scan(*scan_, rest, starts_.data());
        starts_[n] = rest.position;
        add_chunk(n, end);
    }
}

// Makes the keys of a chunk and asks for the memory that they will touch, then counts them.
void PretokenCounts::add_chunk(std::size_t n, const char* end) {
    raise_total(static_cast<Count>(n));
    for (std::size_t i = 0; i < n; ++i) {
        keys_[i] = key_of_(starts_[i], static_cast<std::size_t>(starts_[i + 1] - starts_[i]), end);
        __builtin_prefetch(&slots_[keys_[i].hash & (slots_.size() - 1)]);
    }
    for (std::size_t i = 0; i < n; ++i)
        add_key(keys_[i], {starts_[i], static_cast<std::size_t>(starts_[i + 1] - starts_[i])}, 1);
}

std::size_t PretokenCounts::add_stable(Pattern pattern, Bytes text, std::size_t threads) {
    if (const std::size_t border = last_sure_border(pattern, text); border > 0) {
        const Text whole(text.substr(0, border));
        return add_texts(pattern, {&whole, 1}, threads, [](std::size_t) {});
    }
    return for_each_stable_pretoken(pattern, text, [&](Bytes pretoken) { add(pretoken, 1); });
}

}  // namespace bpetok
