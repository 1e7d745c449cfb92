#include "train.h"

#include <algorithm>
#include <array>
#include <span>

#include "hash.h"

namespace bpetok {
namespace {

using Position = std::uint32_t;
using Key = std::uint64_t;  // a pair of ids

constexpr Id kSeparator = kNoId;  // between the pretokens
constexpr Id kBytes = 256;
constexpr Key kNoKey = ~Key{0};

constexpr Key key_of(Id left, Id right) { return Key{left} << 32 | right; }
constexpr Id left_of(Key key) { return static_cast<Id>(key >> 32); }
constexpr Id right_of(Key key) { return static_cast<Id>(key); }

// ---- the text ------------------------------------------------------------------------------------------------

// All distinct pretokens in one array of cells, one cell per byte, a separator around each. A token's id stands in its
// first and in its last cell, so both neighbours of a token are found without links. The most frequent pretokens come
// first, so that few numbers tell how often each occurs.
class Words {
  public:
    Words(const PretokenCounts& counts, const ByteOrder& order);

    std::vector<Id>& cells() { return cells_; }

    // How often the pretoken at a place occurs. Requires: places rise until `rewind`.
    Count weight_at(Position place) {
        if (ends_[at_] <= place) seek(place);
        return weights_[at_];
    }
    void rewind() { at_ = 0; }

  private:
    void seek(Position place);

    std::vector<Id> cells_;
    std::vector<Position> ends_;  // up to ends_[i], each pretoken occurs weights_[i] times
    std::vector<Count> weights_;
    std::size_t at_ = 0;
};

Words::Words(const PretokenCounts& counts, const ByteOrder& order) {
    std::vector<PretokenCounts::Item> entries = counts.items();
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.count > b.count; });
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
        for (const char c : entry.pretoken) cells_.push_back(order[static_cast<unsigned char>(c)]);
        cells_.push_back(kSeparator);
        if (weights_.empty() || weights_.back() != entry.count) {
            weights_.push_back(entry.count);
            ends_.emplace_back();
        }
        ends_.back() = static_cast<Position>(cells_.size());
    }
}

// In steps that double, since the next place is near, mostly.
[[gnu::noinline]] void Words::seek(Position place) {
    std::size_t step = 1;
    while (at_ + step < ends_.size() && ends_[at_ + step] <= place) step *= 2;
    const auto from = ends_.begin() + static_cast<std::ptrdiff_t>(at_ + step / 2);
    const auto to = ends_.begin() + static_cast<std::ptrdiff_t>(std::min(at_ + step + 1, ends_.size()));
    at_ = static_cast<std::size_t>(std::upper_bound(from, to, place) - ends_.begin());
}

// ---- the pairs -----------------------------------------------------------------------------------------------

// How often a pair occurs, and where it stood when it came into being: at [begin, begin + size) of the places of the
// step that made the larger of its ids.
struct Pair {
    Key key = kNoKey;
    Count count = 0;
    Position begin = 0, size = 0;
};

// Pairs by key. Open addressing, at most half full, no deletes.
class Pairs {
  public:
    Pairs() : slots_(std::size_t{1} << 16) {}

    // nullptr if the pair is not here. The pointer lasts until the next insert.
    Pair* find(Key key) {
        Pair& slot = slots_[place_of(key)];
        return slot.key == key ? &slot : nullptr;
    }

    // Requires: the pair is not here.
    void insert(const Pair& pair) {
        if (++size_ * 2 > slots_.size()) grow();
        slots_[place_of(pair.key)] = pair;
    }

  private:
    std::size_t place_of(Key key) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = mix(key ^ 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93) & mask;
        while (slots_[i].key != key && slots_[i].key != kNoKey) i = (i + 1) & mask;
        return i;
    }

    void grow() {
        std::vector<Pair> old(slots_.size() * 2);
        old.swap(slots_);
        for (const Pair& pair : old)
            if (pair.key != kNoKey) slots_[place_of(pair.key)] = pair;
    }

    std::vector<Pair> slots_;
    std::size_t size_ = 0;
};

struct Candidate {
    Count count;
    Key key;
};

// Hands out the candidate with the highest count, of equal ones that with the smallest key. Most pairs are rare, so
// each low count has a heap of its own, in which keys alone are compared.
class Queue {
  public:
    void push(Candidate candidate) {
        if (candidate.count >= kLow) {
            high_.push_back(candidate);
            std::push_heap(high_.begin(), high_.end(), worse);
            return;
        }
        const auto count = static_cast<std::size_t>(candidate.count);
        highest_low_ = std::max(highest_low_, count);
        low_[count].push_back(candidate.key);
        std::push_heap(low_[count].begin(), low_[count].end(), std::greater<>());
    }

    // A count of 0 if there is none.
    Candidate pop() {
        if (!high_.empty()) {
            std::pop_heap(high_.begin(), high_.end(), worse);
            const Candidate best = high_.back();
            high_.pop_back();
            return best;
        }
        while (highest_low_ > 0 && low_[highest_low_].empty()) --highest_low_;
        if (highest_low_ == 0) return {0, kNoKey};
        std::vector<Key>& keys = low_[highest_low_];
        std::pop_heap(keys.begin(), keys.end(), std::greater<>());
        const Key best = keys.back();
        keys.pop_back();
        return {static_cast<Count>(highest_low_), best};
    }

  private:
    static constexpr Count kLow = 1024;

    static bool worse(const Candidate& a, const Candidate& b) {
        return a.count != b.count ? a.count < b.count : a.key > b.key;
    }

    std::vector<Candidate> high_;
    std::array<std::vector<Key>, kLow> low_;  // by count
    std::size_t highest_low_ = 0;
};

// ---- the merging ---------------------------------------------------------------------------------------------

// A pair (l, r) comes into being only in the step that makes the larger of l and r, and its count only falls
// afterwards. So its places are written once, and a candidate whose count is out of date can wait in the queue until it
// is drawn, to be put back with its true count.
class Trainer {
  public:
    Trainer(const PretokenCounts& counts, std::size_t merges, Count min_count, const ByteOrder& order);
    std::vector<Merge> run(const Progress& progress);

  private:
    // A place where the step's pair was merged, and the tokens on both sides; kSeparator where there is none.
    struct Merged {
        Position begin;
        Id left, right;
        Count weight;
    };

    // What the step's places have in common that have the same neighbour on one side.
    struct Neighbour {
        Count count = 0;
        Position size = 0;
        Position next = 0;  // where the next place of the new pair is written
    };

    void count_bytes();
    void apply(const Pair& pair, Id made);
    void rewrite(const Pair& pair, Id made);
    void note(std::vector<Neighbour>& side, std::vector<Id>& met, Id id, Count weight);
    void lose(Key key, Count count);
    void add(Key key, Neighbour& neighbour, Position& end);
    std::vector<Position>& places_of(Key key) {
        const Id newer = std::max(left_of(key), right_of(key));
        return places_[newer < kBytes ? 0 : newer - kBytes + 1];
    }

    Words words_;
    std::size_t merges_;
    Count min_count_;
    std::vector<Position> lengths_;              // of each id's token, in bytes
    std::vector<std::vector<Position>> places_;  // of the pairs of bytes; of the pairs that each step made
    Pairs pairs_;
    Queue queue_;
    std::vector<Merged> merged_;             // of the step
    std::vector<Neighbour> lefts_, rights_;  // by id; all zero between two steps
    std::vector<Id> lefts_met_, rights_met_;
};

Trainer::Trainer(const PretokenCounts& counts, std::size_t merges, Count min_count, const ByteOrder& order)
    : words_(counts, order), merges_(merges), min_count_(min_count), lengths_(kBytes, 1) {
    count_bytes();
}

void Trainer::count_bytes() {
    const std::vector<Id>& cells = words_.cells();
    std::vector<Neighbour> table(kBytes * kBytes);
    const auto for_each_pair = [&](auto visit) {
        words_.rewind();
        for (std::size_t i = 1; i + 1 < cells.size(); ++i)
            if (cells[i] != kSeparator && cells[i + 1] != kSeparator)
                visit(static_cast<Position>(i), table[cells[i] * kBytes + cells[i + 1]]);
    };
    for_each_pair([&](Position place, Neighbour& pair) {
        pair.count += words_.weight_at(place);
        ++pair.size;
    });
    Position end = 0;
    places_.emplace_back();
    for (Id left = 0; left < kBytes; ++left)
        for (Id right = 0; right < kBytes; ++right) add(key_of(left, right), table[left * kBytes + right], end);
    places_[0].resize(end);
    for_each_pair([&](Position place, Neighbour& pair) {
        if (pair.size > 0) places_[0][pair.next++] = place;
    });
}

std::vector<Merge> Trainer::run(const Progress& progress) {
    constexpr std::size_t kReportEvery = 64;
    std::vector<Merge> made;
    while (made.size() < merges_) {
        const Candidate best = queue_.pop();
        if (best.count == 0) break;
        Pair& known = *pairs_.find(best.key);
        if (known.count != best.count) {
            if (known.count >= min_count_) queue_.push({known.count, best.key});
            continue;
        }
        const Pair pair = known;
        known.count = 0;
        made.push_back({left_of(pair.key), right_of(pair.key), pair.count});
        apply(pair, static_cast<Id>(kBytes - 1 + made.size()));
        if (made.size() % kReportEvery == 0) progress(made.size());
    }
    progress(made.size());
    return made;
}

// Writes the new token over every place where the pair still stands, and keeps all counts true.
void Trainer::apply(const Pair& pair, Id made) {
    const Id left = left_of(pair.key), right = right_of(pair.key);
    lengths_.push_back(lengths_[left] + lengths_[right]);
    lefts_.resize(made + 1);
    rights_.resize(made + 1);
    rewrite(pair, made);
    for (const Merged& merged : merged_) {
        note(lefts_, lefts_met_, merged.left, merged.weight);
        note(rights_, rights_met_, merged.right, merged.weight);
    }
    Position end = 0;
    for (const Id id : lefts_met_) {
        // The new token has itself on its left where the pair stood twice in a row.
        const Key lost = key_of(id == made ? right : id, left);
        if (lost != pair.key) lose(lost, lefts_[id].count);
        add(key_of(id, made), lefts_[id], end);
    }
    for (const Id id : rights_met_) {
        const Key lost = key_of(right, id);
        if (lost != pair.key) lose(lost, rights_[id].count);
        add(key_of(made, id), rights_[id], end);
    }
    std::vector<Position>& places = places_.emplace_back(end);
    for (const Merged& merged : merged_) {
        if (merged.left != kSeparator && lefts_[merged.left].size > 0)
            places[lefts_[merged.left].next++] = merged.begin - lengths_[merged.left];
        if (merged.right != kSeparator && rights_[merged.right].size > 0)
            places[rights_[merged.right].next++] = merged.begin;
    }
    for (const Id id : lefts_met_) lefts_[id] = {};
    for (const Id id : rights_met_) rights_[id] = {};
    lefts_met_.clear();
    rights_met_.clear();
}

// From left to right, so that of two places that overlap the first is merged.
void Trainer::rewrite(const Pair& pair, Id made) {
    const Id left = left_of(pair.key), right = right_of(pair.key);
    constexpr std::size_t kAhead = 16;
    const Position left_length = lengths_[left], length = lengths_[made];
    std::vector<Id>& cells = words_.cells();
    merged_.clear();
    words_.rewind();
    const std::span places = std::span(places_of(pair.key)).subspan(pair.begin, pair.size);
    for (std::size_t i = 0; i < places.size(); ++i) {
        __builtin_prefetch(&cells[places[std::min(i + kAhead, places.size() - 1)]]);
        const Position begin = places[i], middle = begin + left_length, end = begin + length;
        if (cells[begin] != left || cells[middle] != right || cells[middle - 1] != left || cells[end - 1] != right)
            continue;
        if (cells[begin - 1] == made) merged_.back().right = kSeparator;  // what they have in common, the second tells
        merged_.push_back({begin, cells[begin - 1], cells[end], words_.weight_at(begin)});
        cells[begin] = made;
        cells[end - 1] = made;
    }
}

void Trainer::note(std::vector<Neighbour>& side, std::vector<Id>& met, Id id, Count weight) {
    if (id == kSeparator) return;
    Neighbour& neighbour = side[id];
    if (neighbour.size++ == 0) met.push_back(id);
    neighbour.count += weight;
}

// A pair that was too rare when it came into being is not known.
void Trainer::lose(Key key, Count count) {
    if (Pair* pair = pairs_.find(key)) pair->count -= count;
}

// Makes a pair, and gives it room from `end` on, unless it is too rare to merge ever.
void Trainer::add(Key key, Neighbour& neighbour, Position& end) {
    if (neighbour.count < min_count_) neighbour.size = 0;
    if (neighbour.size == 0) return;
    pairs_.insert({key, neighbour.count, end, neighbour.size});
    queue_.push({neighbour.count, key});
    neighbour.next = end;
    end += neighbour.size;
}

}  // namespace

std::vector<Merge> train(const PretokenCounts& counts, std::size_t merges, Count min_count, const ByteOrder& order,
                         const Progress& progress) {
    std::array<Id, kBytes> byte_at_place;
    for (Id byte = 0; byte < kBytes; ++byte) byte_at_place[order[byte]] = byte;
    std::vector<Merge> made = Trainer(counts, merges, min_count, order).run(progress);
    for (Merge& merge : made) {
        if (merge.left < kBytes) merge.left = byte_at_place[merge.left];
        if (merge.right < kBytes) merge.right = byte_at_place[merge.right];
    }
    return made;
}

}  // namespace bpetok
