#include "train.h"

#include <algorithm>
#include <queue>

#include "hash.h"

namespace bpetok {

// ---- counting ------------------------------------------------------------------------------------------------

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

// ---- merging -------------------------------------------------------------------------------------------------

namespace {

using Position = std::uint32_t;

struct Pair {
    Id left, right;
    Count count;
    std::vector<Position> positions;  // where it stood when it came into being, rising; some may be gone since
};

struct Candidate {
    Count count;
    std::uint64_t key;  // (left, right), so that the smallest wins among equal counts
    std::uint32_t pair;
    bool operator<(const Candidate& other) const {
        return count != other.count ? count < other.count : key > other.key;
    }
};

// All distinct pretokens in one array of cells, one cell per byte, a separator between them. A token's id stands in
// its first and in its last cell, so both neighbours of a token are found without links.
//
// A pair (l, r) comes into being only in the step that makes the larger of l and r, and its count only falls
// afterwards. So its positions are written once, and a candidate whose count is out of date can wait in the queue
// until it is drawn, to be put back with its true count.
class Merger {
  public:
    explicit Merger(const PretokenCounts& counts);
    std::vector<Merge> run(std::size_t merges, Count min_count, const Progress& progress);

  private:
    static constexpr Id kSeparator = kNoId;

    void lay_out(const PretokenCounts& counts);
    void count_first_pairs();
    Count weight_at(Position position);
    void change(Id left, Id right, Position position, Count by);
    void offer(std::uint32_t pair);
    void apply(std::uint32_t pair, Id made);

    std::vector<Id> cells_;
    std::vector<Position> lengths_;                    // of each id's token, in bytes
    std::vector<std::pair<Position, Count>> weights_;  // up to this position, each pretoken counts so often
    std::size_t weight_cursor_ = 0;
    std::vector<Pair> pairs_;
    PairMap pair_index_;
    std::vector<std::uint32_t> new_pairs_;
    std::priority_queue<Candidate> queue_;
};

Merger::Merger(const PretokenCounts& counts) : lengths_(256, 1) {
    lay_out(counts);
    count_first_pairs();
}

void Merger::lay_out(const PretokenCounts& counts) {
    std::vector<PretokenCounts::Entry> entries = counts.entries();
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return a.count != b.count ? a.count > b.count : a.pretoken < b.pretoken;
    });
    std::size_t total = 1;
    Count pairs = 0;  // of neighbours in all; no pair can occur more often
    for (const auto& entry : entries) {
        total += entry.pretoken.size() + 1;
        Count inside = 0;
        if (__builtin_mul_overflow(entry.count, static_cast<Count>(entry.pretoken.size() - 1), &inside) ||
            __builtin_add_overflow(pairs, inside, &pairs))
            throw DataError("train: the number of pairs in all pretokens must fit 64 bits");
    }
    if (total > std::numeric_limits<Position>::max())
        throw DataError("train: the distinct pretokens must hold fewer than 2^32 bytes, got " + std::to_string(total));
    cells_.reserve(total);
    cells_.push_back(kSeparator);
    for (const auto& entry : entries) {
        for (const char c : entry.pretoken) cells_.push_back(static_cast<unsigned char>(c));
        cells_.push_back(kSeparator);
        const auto end = static_cast<Position>(cells_.size());
        if (!weights_.empty() && weights_.back().second == entry.count) {
            weights_.back().first = end;
        } else {
            weights_.emplace_back(end, entry.count);
        }
    }
}

void Merger::count_first_pairs() {
    for (Position i = 1; i + 1 < cells_.size(); ++i)
        if (cells_[i] != kSeparator && cells_[i + 1] != kSeparator) change(cells_[i], cells_[i + 1], i, weight_at(i));
    for (const std::uint32_t pair : new_pairs_) offer(pair);
    new_pairs_.clear();
    weight_cursor_ = 0;
}

// Requires: positions rise until weight_cursor_ is set back.
Count Merger::weight_at(Position position) {
    while (weights_[weight_cursor_].first <= position) ++weight_cursor_;
    return weights_[weight_cursor_].second;
}

// Adds to a pair's count, which makes the pair where there was none.
void Merger::change(Id left, Id right, Position position, Count by) {
    const std::uint64_t key = PairMap::key(left, right);
    if (const std::uint32_t* known = pair_index_.find(key)) {
        Pair& pair = pairs_[*known];
        pair.count += by;
        if (by > 0) pair.positions.push_back(position);
        return;
    }
    const auto index = static_cast<std::uint32_t>(pairs_.size());
    pair_index_.insert(key, index);
    pairs_.push_back({left, right, by, {position}});
    new_pairs_.push_back(index);
}

void Merger::offer(std::uint32_t index) {
    const Pair& pair = pairs_[index];
    if (pair.count > 0) queue_.push({pair.count, PairMap::key(pair.left, pair.right), index});
}

std::vector<Merge> Merger::run(std::size_t merges, Count min_count, const Progress& progress) {
    constexpr std::size_t kReportEvery = 64;
    std::vector<Merge> made;
    while (made.size() < merges && !queue_.empty()) {
        const Candidate best = queue_.top();
        queue_.pop();
        const Pair& pair = pairs_[best.pair];
        if (pair.count != best.count) {
            offer(best.pair);
            continue;
        }
        if (pair.count < min_count) break;
        made.push_back({pair.left, pair.right, pair.count});
        apply(best.pair, static_cast<Id>(255 + made.size()));
        if (made.size() % kReportEvery == 0) progress(made.size());
    }
    progress(made.size());
    return made;
}

// Writes the new token over every place where the pair still stands, from left to right, and keeps all counts true.
void Merger::apply(std::uint32_t index, Id made) {
    const Id left = pairs_[index].left;
    const Id right = pairs_[index].right;
    const std::vector<Position> positions = std::move(pairs_[index].positions);
    const Position left_length = lengths_[left];
    const Position length = left_length + lengths_[right];
    lengths_.push_back(length);
    weight_cursor_ = 0;
    for (const Position begin : positions) {
        const Position middle = begin + left_length;
        const Position end = begin + length;
        if (cells_[begin] != left || cells_[middle] != right || cells_[middle - 1] != left || cells_[end - 1] != right)
            continue;
        const Count weight = weight_at(begin);
        const Id before = cells_[begin - 1];
        const Id after = cells_[end];
        pairs_[index].count -= weight;
        if (before != kSeparator) {
            const Position before_begin = begin - lengths_[before];
            change(before, left, before_begin, -weight);
            change(before, made, before_begin, weight);
        }
        if (after != kSeparator) {
            change(right, after, middle, -weight);
            change(made, after, begin, weight);
        }
        cells_[begin] = made;
        cells_[end - 1] = made;
    }
    for (const std::uint32_t pair : new_pairs_) offer(pair);
    new_pairs_.clear();
}

}  // namespace

std::vector<Merge> train(const PretokenCounts& counts, std::size_t merges, Count min_count, const Progress& progress) {
    return Merger(counts).run(merges, min_count, progress);
}

}  // namespace bpetok
