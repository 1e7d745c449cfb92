#include "train.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

#include "hash.h"
#include "pair_queue.h"

namespace bpetok {
namespace {

// ---- the pairs -----------------------------------------------------------------------------------------------

constexpr PairKey kNoKey = ~PairKey{0};
constexpr Id kBytes = 256;
constexpr std::size_t kCopies = 5;  // of each token's bytes: here, in the result, and in what is made of it

// How often a pair occurs, and where it stood when it came into being: at [begin, begin + size) of the places that were
// written then.
struct Pair {
    PairKey key = kNoKey;
    Count count = 0;
    Position begin = 0, size = 0;
};

// How much memory may still be taken.
class Budget {
  public:
    explicit Budget(std::size_t limit) : limit_(limit) {}

    // Throws MemoryLimitError if there is not so much.
    void take(std::size_t bytes) {
        taken_ += bytes;
        if (taken_ > limit_)
            throw MemoryLimitError("train: merging must take at most " + std::to_string(limit_) +
                                   " bytes of memory, but needs " + std::to_string(taken_) + " and more");
    }
    void give_back(std::size_t bytes) { taken_ -= bytes; }

  private:
    std::size_t limit_, taken_ = 0;
};

// Places, in memory that nobody clears first: it may be large, and all of it is written.
class Places {
  public:
    Places(std::size_t size, Budget& budget) : budget_(budget), size_(size) {
        budget_.take(size_ * sizeof(Position));
        data_ = std::make_unique_for_overwrite<Position[]>(size_);
    }
    Places(Places&&) = default;
    Places& operator=(Places&&) = delete;
    ~Places() {
        if (data_) budget_.give_back(size_ * sizeof(Position));
    }

    Position& operator[](std::size_t i) { return data_[i]; }
    std::span<Position> span() { return {data_.get(), size_}; }

  private:
    Budget& budget_;
    std::size_t size_;
    std::unique_ptr<Position[]> data_;
};

// Pairs by key. Open addressing, at most three quarters full, no deletes.
class Pairs {
  public:
    explicit Pairs(Budget& budget) : budget_(budget) {}
    Pairs(const Pairs&) = delete;
    Pairs& operator=(const Pairs&) = delete;

    // nullptr if the pair is not here. The pointer lasts until the next insert.
    Pair* find(PairKey key) {
        Pair& slot = slots_[place_of(key)];
        return slot.key == key ? &slot : nullptr;
    }

    // Requires: the pair is not here.
    void insert(const Pair& pair) {
        if (++size_ * 4 > slots_.size() * 3) resize(slots_.size() * 2);
        slots_[place_of(pair.key)] = pair;
    }

    void clear() {
        budget_.give_back(slots_.size() * kSlotBytes);
        std::vector<Pair>().swap(slots_);
        size_ = 0;
        resize(kFewest);
    }

  private:
    std::size_t place_of(PairKey key) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = mix(key ^ 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93) & mask;
        while (slots_[i].key != key && slots_[i].key != kNoKey) i = (i + 1) & mask;
        return i;
    }

    void resize(std::size_t size) {
        budget_.take(size * kSlotBytes);
        const std::vector<Pair> old = std::exchange(slots_, std::vector<Pair>(size));
        budget_.give_back(old.size() * kSlotBytes);
        for (const Pair& pair : old)
            if (pair.key != kNoKey) slots_[place_of(pair.key)] = pair;
    }

    static constexpr std::size_t kFewest = 1 << 14;
    static constexpr std::size_t kSlotBytes = sizeof(Pair) + 16;  // with what the queue takes for each

    Budget& budget_;
    std::vector<Pair> slots_;
    std::size_t size_ = 0;
};

// ---- the merging ---------------------------------------------------------------------------------------------

// A pair (l, r) comes into being only in the step that makes the larger of l and r, and its count only falls
// afterwards. So its places are written once, and a candidate whose count is out of date can wait in the queue until it
// is drawn, to be put back with its true count.
//
// Most pairs are too rare to merge ever. Those under a floor are not kept; when no others are left the floor is
// lowered, and the pairs are listed anew.
template <class Order>
class Trainer {
  public:
    Trainer(Words words, const Alphabet& alphabet, const TrainingRules& rules, const Progress& progress);
    Training run();

  private:
    using Ticket = typename Order::Ticket;

    // What the places have in common that have the same neighbour on one side.
    struct Neighbour {
        Count count = 0;
        Position size = 0;
        Position next = 0;  // the first place of the pair; then where to write the next one

        void add(Position place, Count weight) {
            if (size++ == 0) next = place;
            count += weight;
        }
    };
    struct Side {
        std::vector<Neighbour> by_id;  // all zero between two steps
        std::vector<Id> met;
    };

    void list_byte_pairs();
    void list_pairs();
    void list_group(Id left, std::span<const Position> group, Position& end);
    void step(Count count, Ticket ticket);
    Ticket up_to_date(Ticket drawn, Pair& pair);
    bool may_make(PairKey key) const;
    void apply(const Pair& pair);
    std::span<const Position> rewrite(const Pair& pair, Id made);
    void count_neighbours(std::span<const Position> places, Id made);
    void lose(PairKey key, Count count);
    void write_places(std::span<const Position> places, Id made, Places& written);
    void add(PairKey key, Neighbour& neighbour, Position& end);
    static void note(Side& side, Id id, Position place, Count weight);
    static void forget(Side& side);

    Places& places_of(PairKey key) {
        const std::size_t newer = std::max(left_of(key), right_of(key));
        return places_[newer < listed_ ? 0 : newer - listed_ + 1];
    }

    // Calls visit(place) for each, and now and then lets others have their turn, who may want to stop the work.
    template <class Visit>
    void for_each(std::span<const Position> places, Visit visit);

    const TrainingRules& rules_;
    const Progress& progress_;
    Training made_;
    std::size_t since_turn_ = 0;  // places that were visited
    Words words_;
    Count floor_;
    Budget budget_;
    std::vector<std::string> tokens_;  // the bytes of each id, if somebody asks for them
    std::size_t listed_ = 0;           // so many tokens there were when all pairs were listed
    std::vector<Places> places_;       // of the listed pairs; of the pairs that each step since then made
    Pairs pairs_{budget_};
    PairQueue<Order> queue_;
    Side lefts_, rights_;
};

// The counts of the last merges were found near the number of cells for each merge over 3 to 14.
Count first_floor(std::size_t cells, std::size_t merges) {
    return std::max<Count>(2, static_cast<Count>(cells / (merges * 12 + 1)));
}

template <class Order>
Trainer<Order>::Trainer(Words words, const Alphabet& alphabet, const TrainingRules& rules, const Progress& progress)
    : rules_(rules),
      progress_(progress),
      words_(std::move(words)),
      floor_(std::max(rules.min_count, first_floor(words_.size(), rules.merges))),
      budget_(rules.memory_limit),
      queue_(Order(tokens_)) {
    made_.tokens = words_.count_tokens();
    const std::size_t most = std::min(rules.merges, words_.size());
    made_.merges.reserve(most);
    places_.reserve(most + 1);
    lefts_.by_id.reserve(alphabet.tokens.size() + most);
    rights_.by_id.reserve(alphabet.tokens.size() + most);
    budget_.take(words_.memory() + most * (2 * sizeof(Neighbour) + 2 * sizeof(Merge) + sizeof(Places)));
    if (rules.may_make || rules.tie_break == TieBreak::greatest_bytes)
        for (const Token& token : alphabet.tokens) tokens_.emplace_back(token.bytes);
}

template <class Order>
template <class Visit>
void Trainer<Order>::for_each(std::span<const Position> places, Visit visit) {
    constexpr std::size_t kAhead = 32, kTurn = std::size_t{1} << 20;
    for (std::size_t i = 0; i < places.size(); ++i) {
        words_.prefetch(places[std::min(i + kAhead, places.size() - 1)]);
        visit(places[i]);
        if (++since_turn_ < kTurn) continue;
        since_turn_ = 0;
        progress_(made_.merges.size());
    }
}

// ---- listing -------------------------------------------------------------------------------------------------

// While all tokens are single bytes, a table has room for every pair.
template <class Order>
void Trainer<Order>::list_byte_pairs() {
    listed_ = kBytes;
    pairs_.clear();
    std::vector<Neighbour> table(kBytes * kBytes);
    words_.rewind();
    words_.for_each_byte_pair(
        [&](Position place, Id left, Id right) { table[left * kBytes + right].add(place, words_.weight_at(place)); });
    Position end = 0;
    for (Id left = 0; left < kBytes; ++left)
        for (Id right = 0; right < kBytes; ++right)
            if (Neighbour& pair = table[left * kBytes + right]; pair.size > 0) add(key_of(left, right), pair, end);
    Places& places = places_.emplace_back(end, budget_);
    words_.for_each_byte_pair([&](Position place, Id left, Id right) {
        if (Neighbour& pair = table[left * kBytes + right]; pair.size > 0) places[pair.next++] = place;
    });
}

// Sorts the places of all tokens by id, then those of each id by the token on their right.
template <class Order>
void Trainer<Order>::list_pairs() {
    listed_ = words_.tokens();
    pairs_.clear();
    places_.clear();
    lefts_.by_id.resize(listed_);
    rights_.by_id.resize(listed_);
    std::vector<Position> starts(listed_ + 2);  // of group i, when all is written, at i
    words_.for_each_pair([&](Position, Id left, Id) { ++starts[left + 2]; });
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    Places& places = places_.emplace_back(starts.back(), budget_);
    words_.for_each_pair([&](Position place, Id left, Id) { places[starts[left + 1]++] = place; });
    Position end = 0;
    budget_.take(starts.back() * sizeof(Position));
    std::vector<Position> group;  // a copy, since what is kept of it is written over it
    for (Id left = 0; left < listed_; ++left) {
        const std::span all = places.span().subspan(starts[left], starts[left + 1] - starts[left]);
        group.assign(all.begin(), all.end());
        list_group(left, group, end);
    }
    Places kept(end, budget_);
    std::copy_n(places.span().begin(), end, kept.span().begin());
    places_.clear();
    places_.push_back(std::move(kept));
    budget_.give_back(starts.back() * sizeof(Position));
}

template <class Order>
void Trainer<Order>::list_group(Id left, std::span<const Position> group, Position& end) {
    words_.rewind();
    for_each(group, [&](Position place) { note(rights_, words_.after(place, left), place, words_.weight_at(place)); });
    for (const Id id : rights_.met) add(key_of(left, id), rights_.by_id[id], end);
    for_each(group, [&](Position place) {
        Neighbour& right = rights_.by_id[words_.after(place, left)];
        if (right.size > 0) places_[0][right.next++] = place;
    });
    forget(rights_);
}

// ---- steps ---------------------------------------------------------------------------------------------------

template <class Order>
Training Trainer<Order>::run() {
    constexpr Count kLower = 8;
    if (words_.are_bytes()) {
        list_byte_pairs();
    } else {
        list_pairs();
    }
    while (made_.merges.size() < rules_.merges) {
        const auto best = queue_.pop();
        if (best.count > 0) {
            step(best.count, best.ticket);
        } else if (floor_ > rules_.min_count) {
            floor_ = std::max(rules_.min_count, floor_ / kLower);
            list_pairs();
        } else {
            break;
        }
    }
    progress_(made_.merges.size());
    return std::move(made_);
}

template <class Order>
void Trainer<Order>::step(Count count, Ticket drawn) {
    constexpr std::size_t kReportEvery = 64;
    Pair& known = *pairs_.find(Order::key(drawn));
    const Ticket ticket = up_to_date(drawn, known);
    if (known.count != count || ticket != drawn) {
        if (known.count >= floor_) queue_.push(known.count, ticket);
        return;
    }
    const Pair pair = known;
    known.count = 0;
    if (!may_make(pair.key)) return;
    apply(pair);
    made_.merges.push_back({left_of(pair.key), right_of(pair.key), pair.count});
    if (made_.merges.size() % kReportEvery == 0) progress_(made_.merges.size());
}

template <class Order>
typename Order::Ticket Trainer<Order>::up_to_date(Ticket drawn, Pair& pair) {
    if constexpr (Order::kByPlace) {
        Places& places = places_of(pair.key);
        for (; pair.size > 1; ++pair.begin, --pair.size)
            if (words_.stands(places[pair.begin], left_of(pair.key), right_of(pair.key))) break;
        return Order::ticket(pair.key, places[pair.begin]);
    } else {
        return drawn;
    }
}

template <class Order>
bool Trainer<Order>::may_make(PairKey key) const {
    return !rules_.may_make || rules_.may_make(tokens_[left_of(key)] + tokens_[right_of(key)]);
}

// Writes the new token over every place where the pair still stands, and keeps all counts true.
template <class Order>
void Trainer<Order>::apply(const Pair& pair) {
    const Id left = left_of(pair.key), right = right_of(pair.key), made = words_.learn(left, right);
    budget_.take(kCopies * words_.length(made));
    if (!tokens_.empty()) tokens_.push_back(tokens_[left] + tokens_[right]);
    lefts_.by_id.resize(made + 1);
    rights_.by_id.resize(made + 1);
    const std::span<const Position> places = rewrite(pair, made);
    count_neighbours(places, made);
    Position end = 0;
    for (const Id id : lefts_.met) {
        // The new token has itself on its left where the pair stood twice in a row.
        const PairKey lost = key_of(id == made ? right : id, left);
        if (lost != pair.key) lose(lost, lefts_.by_id[id].count);
        add(key_of(id, made), lefts_.by_id[id], end);
    }
    for (const Id id : rights_.met) {
        const PairKey lost = key_of(right, id);
        if (lost != pair.key) lose(lost, rights_.by_id[id].count);
        add(key_of(made, id), rights_.by_id[id], end);
    }
    write_places(places, made, places_.emplace_back(end, budget_));
    forget(lefts_);
    forget(rights_);
}

// From left to right, so that of two places that overlap the first is merged. Keeps those that were.
template <class Order>
std::span<const Position> Trainer<Order>::rewrite(const Pair& pair, Id made) {
    const std::span places = places_of(pair.key).span().subspan(pair.begin, pair.size);
    std::size_t kept = 0;
    for_each(places, [&](Position place) {
        if (!words_.stands(place, left_of(pair.key), right_of(pair.key))) return;
        words_.write(place, made);
        places[kept++] = place;
    });
    return places.first(kept);
}

template <class Order>
void Trainer<Order>::count_neighbours(std::span<const Position> places, Id made) {
    words_.rewind();
    for_each(places, [&](Position place) {
        const Id left = words_.before(place), right = words_.after(place, made);
        const Count weight = words_.weight_at(place);
        made_.tokens -= weight;
        if (left != kSeparator) note(lefts_, left, place - words_.length(left), weight);
        // Where the new token stands twice in a row, the second tells of it.
        if (right != kSeparator && right != made) note(rights_, right, place, weight);
    });
}

template <class Order>
void Trainer<Order>::write_places(std::span<const Position> places, Id made, Places& written) {
    for_each(places, [&](Position place) {
        if (const Id left = words_.before(place); left != kSeparator && lefts_.by_id[left].size > 0)
            written[lefts_.by_id[left].next++] = place - words_.length(left);
        const Id right = words_.after(place, made);
        if (right != kSeparator && right != made && rights_.by_id[right].size > 0)
            written[rights_.by_id[right].next++] = place;
    });
}

template <class Order>
void Trainer<Order>::note(Side& side, Id id, Position place, Count weight) {
    if (side.by_id[id].size == 0) side.met.push_back(id);
    side.by_id[id].add(place, weight);
}

template <class Order>
void Trainer<Order>::forget(Side& side) {
    for (const Id id : side.met) side.by_id[id] = {};
    side.met.clear();
}

// A pair that was too rare when it came into being is not known.
template <class Order>
void Trainer<Order>::lose(PairKey key, Count count) {
    if (Pair* pair = pairs_.find(key)) pair->count -= count;
}

// Makes a pair, and gives it room from `end` on, unless it is too rare or too long.
template <class Order>
void Trainer<Order>::add(PairKey key, Neighbour& neighbour, Position& end) {
    const bool is_short = words_.length(left_of(key)) + words_.length(right_of(key)) <= rules_.max_token_bytes;
    if (neighbour.count < floor_ || !is_short) {
        neighbour.size = 0;
        return;
    }
    queue_.push(neighbour.count, Order::ticket(key, neighbour.next));
    pairs_.insert({key, neighbour.count, end, neighbour.size});
    neighbour.next = end;
    end += neighbour.size;
}

Training numbered_from_0(Words words, const Alphabet& alphabet, const TrainingRules& rules, const Progress& progress) {
    switch (rules.tie_break) {
        case TieBreak::greatest_bytes: return Trainer<GreatestBytes>(std::move(words), alphabet, rules, progress).run();
        case TieBreak::first_in_text: return Trainer<FirstInText>(std::move(words), alphabet, rules, progress).run();
        case TieBreak::smallest_ids: break;
    }
    return Trainer<SmallestIds>(std::move(words), alphabet, rules, progress).run();
}

}  // namespace

Training train(Words words, const Alphabet& alphabet, const TrainingRules& rules, const Progress& progress) {
    Training made = numbered_from_0(std::move(words), alphabet, rules, progress);
    const Id first = static_cast<Id>(alphabet.tokens.size());
    const auto id_of = [&](Id id) { return id < first ? alphabet.tokens[id].id : alphabet.next_id + (id - first); };
    for (Merge& merge : made.merges) merge = {id_of(merge.left), id_of(merge.right), merge.count};
    return made;
}

}  // namespace bpetok
