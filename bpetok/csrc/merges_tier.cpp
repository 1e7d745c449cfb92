// The merging of short pretokens, compiled once for each tier of instructions, as scan_tier.cpp is.

#include <algorithm>
#include <bit>
#include <utility>

#include "merges.h"
#include "tiers.h"

namespace bpetok::BPETOK_TIER {
namespace {

// A place and the id that its part and the next one merge to, so that the smallest merges first.
constexpr std::uint32_t kNoMerge = ~0u;
constexpr std::uint32_t candidate(Id id, std::size_t place) {
    return id == kNoId ? kNoMerge : id << 8 | static_cast<std::uint32_t>(place);
}

constexpr std::uint64_t bit(std::size_t place) { return std::uint64_t{1} << place; }
constexpr std::size_t lowest_bit(std::uint64_t mask) { return static_cast<std::size_t>(std::countr_zero(mask)); }

// The merging of one pretoken. A part lives at the place of its first byte, and `live_` tells which places hold one. Up
// to 64 bytes, a scan for the lowest candidate beats a heap. In the arrays place i has index i + 1: to the left and to
// the right of all places there is a part that merges with nothing.
class Run {
  public:
    void start(const MergeTable& table, Bytes pretoken) {
        table_ = &table;
        size_ = pretoken.size();
        for (std::size_t i = 0; i < size_; ++i) parts_[i + 1] = table.byte_id(pretoken[i]);
        for (std::size_t i = 0; i + 1 < size_; ++i)
            candidates_[i + 1] = candidate(table.byte_pair(pretoken[i], pretoken[i + 1]), i);
        for (std::size_t i = size_; i <= scanned(); ++i) candidates_[i] = kNoMerge;
        parts_[0] = parts_[kShortPretoken + 1] = kNoPart;
        live_ = ~std::uint64_t{0} >> (kShortPretoken - size_);
    }

    // One merge. Asks for the memory that `look_up` will read. False if there is none left.
    bool merge() {
        const std::uint32_t best = lowest_candidate();
        if (best == kNoMerge) return false;
        const std::size_t place = best & 0xFF;
        const std::uint64_t above = live_ & ~((bit(place) << 1) - 1);  // its lowest bit: what is merged with
        const std::uint64_t beyond = above & (above - 1), before = live_ & (bit(place) - 1);
        candidates_[lowest_bit(above) + 1] = kNoMerge;
        live_ ^= above ^ beyond;
        changed_ = place + 1;
        right_ = lowest_bit(beyond) + 1;
        left_ = kShortPretoken - static_cast<std::size_t>(std::countl_zero(before));
        parts_[changed_] = best >> 8;
        right_place_ = table_->pairs().place_of(parts_[changed_], parts_[right_]);
        left_place_ = table_->pairs().place_of(parts_[left_], parts_[changed_]);
        table_->pairs().prefetch(right_place_);
        table_->pairs().prefetch(left_place_);
        return true;
    }

    // What the merged part and its neighbours merge to. Requires: `merge` gave true just before.
    void look_up() {
        const Id right = table_->merged(parts_[changed_], parts_[right_], right_place_);
        const Id left = table_->merged(parts_[left_], parts_[changed_], left_place_);
        candidates_[changed_] = candidate(right, changed_ - 1);
        candidates_[left_] = candidate(left, left_ - 1);
    }

    std::size_t write(Id* ids) const {
        std::size_t count = 0;
        for (std::uint64_t live = live_; live; live &= live - 1) ids[count++] = parts_[lowest_bit(live) + 1];
        return count;
    }

  private:
    // How many places are scanned for the lowest candidate: one of a few numbers, so that the loop can be foreseen.
    std::size_t scanned() const { return size_ <= 16 ? 16 : size_ <= 32 ? 32 : kShortPretoken; }

    std::uint32_t lowest_candidate() const {
        return size_ <= 16 ? lowest<16>() : size_ <= 32 ? lowest<32>() : lowest<kShortPretoken>();
    }

    template <std::size_t n>
    std::uint32_t lowest() const {
        std::array<std::uint32_t, 8> best;
        best.fill(kNoMerge);
        for (std::size_t i = 1; i <= n; i += 8)
            for (std::size_t k = 0; k < 8; ++k) best[k] = std::min(best[k], candidates_[i + k]);
        return *std::min_element(best.begin(), best.end());
    }

    const MergeTable* table_;
    std::size_t size_;
    std::uint64_t live_;
    std::size_t changed_, left_, right_;
    PairTable::Place left_place_, right_place_;
    std::array<Id, kShortPretoken + 2> parts_;
    std::array<std::uint32_t, kShortPretoken + 8> candidates_;
};

}  // namespace

void merge(const MergeTable& table, std::span<const Bytes> pretokens, Merged* merged) {
    std::array<Run, kMergeGroup> runs;
    std::array<std::size_t, kMergeGroup> active;
    std::size_t n = 0;
    const auto go_on = [&](std::size_t i) {
        if (runs[i].merge()) {
            active[n++] = i;
        } else {
            merged[i].size = runs[i].write(merged[i].ids.data());
        }
    };
    for (std::size_t i = 0; i < pretokens.size(); ++i) {
        runs[i].start(table, pretokens[i]);
        go_on(i);
    }
    while (n > 0) {
        const std::size_t before = std::exchange(n, 0);
        for (std::size_t k = 0; k < before; ++k) {
            runs[active[k]].look_up();
            go_on(active[k]);
        }
    }
}

}  // namespace bpetok::BPETOK_TIER
