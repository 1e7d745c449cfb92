// pair_queue.h: which pair merges next: that with the highest count, and of equal ones the first by a named order.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "types.h"
#include "words.h"

namespace bpetok {

using PairKey = std::uint64_t;

constexpr PairKey key_of(Id left, Id right) { return PairKey{left} << 32 | right; }
constexpr Id left_of(PairKey key) { return static_cast<Id>(key >> 32); }
constexpr Id right_of(PairKey key) { return static_cast<Id>(key); }

// ---- the orders: a ticket is what a pair waits with, and one goes before another -----------------------------------

// The smallest left id, then the smallest right id.
struct SmallestIds {
    using Ticket = PairKey;
    static constexpr bool kByPlace = false;

    explicit SmallestIds(const std::vector<std::string>&) {}
    static Ticket ticket(PairKey key, Position) { return key; }
    static PairKey key(Ticket ticket) { return ticket; }
    bool before(Ticket a, Ticket b) const { return a < b; }
};

// The left token whose bytes are the greatest, then the right one.
struct GreatestBytes {
    using Ticket = PairKey;
    static constexpr bool kByPlace = false;

    explicit GreatestBytes(const std::vector<std::string>& all) : tokens(all) {}
    static Ticket ticket(PairKey key, Position) { return key; }
    static PairKey key(Ticket ticket) { return ticket; }
    bool before(Ticket a, Ticket b) const {
        const int left = tokens[left_of(a)].compare(tokens[left_of(b)]);
        return left != 0 ? left > 0 : tokens[right_of(a)] > tokens[right_of(b)];
    }

    const std::vector<std::string>& tokens;  // by id
};

// That which stands first in the text.
struct FirstInText {
    struct Ticket {
        Position place;  // the first
        PairKey pair;

        bool operator==(const Ticket&) const = default;
    };
    static constexpr bool kByPlace = true;

    explicit FirstInText(const std::vector<std::string>&) {}
    static Ticket ticket(PairKey key, Position first) { return {first, key}; }
    static PairKey key(Ticket ticket) { return ticket.pair; }
    bool before(Ticket a, Ticket b) const { return a.place < b.place; }
};

// ---- the queue -----------------------------------------------------------------------------------------------------

// Hands out the candidate with the highest count, of equal ones that which goes before the others. Most pairs are rare,
// so each low count has a heap of its own, in which tickets alone are compared.
template <class Order>
class PairQueue {
  public:
    using Ticket = typename Order::Ticket;

    struct Candidate {
        Count count;  // 0: there is none
        Ticket ticket;
    };

    explicit PairQueue(Order order) : order_(order) {}

    void push(Count count, Ticket ticket) {
        if (count >= kLow) {
            high_.push_back({count, ticket});
            std::push_heap(high_.begin(), high_.end(), worse());
            return;
        }
        const auto low = static_cast<std::size_t>(count);
        highest_low_ = std::max(highest_low_, low);
        low_[low].push_back(ticket);
        std::push_heap(low_[low].begin(), low_[low].end(), later());
    }

    Candidate pop() {
        if (!high_.empty()) {
            std::pop_heap(high_.begin(), high_.end(), worse());
            const Candidate best = high_.back();
            high_.pop_back();
            return best;
        }
        while (highest_low_ > 0 && low_[highest_low_].empty()) --highest_low_;
        if (highest_low_ == 0) return {0, {}};
        std::vector<Ticket>& tickets = low_[highest_low_];
        std::pop_heap(tickets.begin(), tickets.end(), later());
        const Ticket best = tickets.back();
        tickets.pop_back();
        return {static_cast<Count>(highest_low_), best};
    }

  private:
    static constexpr Count kLow = 1024;

    auto later() const {
        return [this](const Ticket& a, const Ticket& b) { return order_.before(b, a); };
    }
    auto worse() const {
        return [this](const Candidate& a, const Candidate& b) {
            return a.count != b.count ? a.count < b.count : order_.before(b.ticket, a.ticket);
        };
    }

    Order order_;
    std::vector<Candidate> high_;
    std::array<std::vector<Ticket>, kLow> low_;  // by count
    std::size_t highest_low_ = 0;
};

}  // namespace bpetok
