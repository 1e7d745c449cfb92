#include "words.h"

#include <algorithm>
#include <numeric>

#include "encode.h"

namespace bpetok {
namespace {

// The entries with the highest counts first. Most counts are low, and go by a counting sort.
std::vector<std::uint32_t> by_count(const PretokenCounts& counts) {
    constexpr std::size_t kLow = 1024;
    const auto place_of = [&](std::size_t i) {
        return kLow - std::min<std::size_t>(kLow, static_cast<std::size_t>(counts.item(i).count));
    };
    std::vector<std::uint32_t> starts(kLow + 1), order(counts.size());
    for (std::size_t i = 0; i < counts.size(); ++i) ++starts[place_of(i) + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    const auto high = static_cast<std::ptrdiff_t>(starts[1]);
    for (std::size_t i = 0; i < counts.size(); ++i) order[starts[place_of(i)]++] = static_cast<std::uint32_t>(i);
    std::sort(order.begin(), order.begin() + high,
              [&](std::uint32_t a, std::uint32_t b) { return counts.item(a).count > counts.item(b).count; });
    return order;
}

std::vector<std::uint32_t> in_order(const PretokenCounts& counts) {
    std::vector<std::uint32_t> order(counts.size());
    std::iota(order.begin(), order.end(), 0U);
    return order;
}

}  // namespace

Words::Words(const PretokenCounts& counts, const Alphabet& alphabet, bool as_met, std::function<void()> turn)
    : turn_(std::move(turn)), are_bytes_(!alphabet.encoder) {
    reserve(counts);
    for (const Token& token : alphabet.tokens) lengths_.push_back(static_cast<Position>(token.bytes.size()));
    const std::vector<std::uint32_t> order = as_met ? in_order(counts) : by_count(counts);
    cells_.push_back(kSeparator);
    if (alphabet.encoder) {
        add_encoded(counts, order, alphabet);
    } else {
        add_bytes(counts, order, alphabet);
    }
}

void Words::reserve(const PretokenCounts& counts) {
    std::size_t total = 1;
    Count bytes = 0;  // of the whole text; no pair can occur more often
    for (std::size_t i = 0; i < counts.size(); ++i) {
        const auto [pretoken, count] = counts.item(i);
        total += pretoken.size() + 1;
        Count inside = 0;
        if (__builtin_mul_overflow(count, static_cast<Count>(pretoken.size()), &inside) ||
            __builtin_add_overflow(bytes, inside, &bytes))
            throw DataError("train: the number of bytes in all pretokens must fit 64 bits");
    }
    if (total > std::numeric_limits<Position>::max())
        throw DataError("train: the distinct pretokens and as many separators must hold fewer than 2^32 bytes, got " +
                        std::to_string(total));
    cells_.reserve(total);
}

void Words::end_pretoken(Count weight, std::size_t tokens) {
    count_ += weight * static_cast<Count>(tokens);
    take_turn();
    cells_.push_back(kSeparator);
    if (weights_.empty() || weights_.back() != weight) {
        weights_.push_back(weight);
        ends_.emplace_back();
    }
    ends_.back() = static_cast<Position>(cells_.size());
}

void Words::take_turn() {
    if (cells_.size() < next_turn_) return;
    next_turn_ = cells_.size() + kTurn;
    turn_();
}

void Words::add_bytes(const PretokenCounts& counts, const std::vector<std::uint32_t>& order, const Alphabet& alphabet) {
    std::array<Id, 256> place_of;
    for (Id i = 0; i < place_of.size(); ++i) place_of[static_cast<unsigned char>(alphabet.tokens[i].bytes[0])] = i;
    for (const std::uint32_t i : order) {
        const auto [pretoken, count] = counts.item(i);
        for (std::size_t begin = 0; begin < pretoken.size(); begin += kTurn) {
            for (const char c : pretoken.substr(begin, kTurn))
                cells_.push_back(place_of[static_cast<unsigned char>(c)]);
            take_turn();
        }
        end_pretoken(count, pretoken.size());
    }
}

void Words::add_encoded(const PretokenCounts& counts, const std::vector<std::uint32_t>& order,
                        const Alphabet& alphabet) {
    constexpr std::size_t kAtOnce = 1024;
    Id largest = 0;
    for (const Token& token : alphabet.tokens) largest = std::max(largest, token.id);
    std::vector<Id> place_of(largest + std::size_t{1});
    for (std::size_t i = 0; i < alphabet.tokens.size(); ++i) place_of[alphabet.tokens[i].id] = static_cast<Id>(i);
    std::vector<Bytes> pretokens;
    IdBuffer ids;
    for (std::size_t first = 0; first < order.size(); first += kAtOnce) {
        const std::size_t last = std::min(first + kAtOnce, order.size());
        pretokens.clear();
        ids.clear();
        for (std::size_t i = first; i < last; ++i) pretokens.push_back(counts.item(order[i]).pretoken);
        alphabet.encoder->encode_pretokens(pretokens, ids);
        const Id* next = ids.data();
        for (std::size_t i = first; i < last; ++i) {
            const std::size_t end = cells_.size() + pretokens[i - first].size();
            const Id* begin = next;
            while (cells_.size() < end) {
                const Id id = place_of[*next++];
                cells_.insert(cells_.end(), lengths_[id], id);
            }
            end_pretoken(counts.item(order[i]).count, static_cast<std::size_t>(next - begin));
        }
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

}  // namespace bpetok
