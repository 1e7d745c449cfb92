// heap_merge.h: merging by a heap, for pretokens of any length and for any rule of what merges first.
#pragma once

#include <functional>
#include <queue>
#include <span>

#include "types.h"

namespace bpetok {

// What two neighbours merge to, and when: the lowest rank merges first, the leftmost of equal ones. kNoId: they do not.
struct Candidate {
    Rank rank;
    Id id;
};

struct HeapMerged {
    std::size_t size;  // how many ids are left
    Rank last;         // the rank of the last merge, if there was any
};

// Merges neighbours, as `candidate_of(left id, right id)` says, until none merge; the ids that are left stand first.
// Time: O(n log n); the stack is not used for it.
template <class CandidateOf>
HeapMerged merge_by_heap(std::span<Id> ids, CandidateOf candidate_of) {
    struct Place {
        std::size_t previous, next;  // n and beyond: there is none
    };
    struct Offer {
        Candidate candidate;
        std::size_t left;
        Id left_id, right_id;  // as they were; an offer whose parts have changed is void
        bool operator>(const Offer& other) const {
            return candidate.rank != other.candidate.rank ? candidate.rank > other.candidate.rank : left > other.left;
        }
    };
    const std::size_t n = ids.size();
    std::vector<Place> places(n);
    std::priority_queue<Offer, std::vector<Offer>, std::greater<>> queue;
    const auto offer = [&](std::size_t left) {
        const std::size_t right = places[left].next;
        if (right >= n) return;
        const Candidate candidate = candidate_of(ids[left], ids[right]);
        if (candidate.id != kNoId) queue.push({candidate, left, ids[left], ids[right]});
    };
    for (std::size_t i = 0; i < n; ++i) places[i] = {i == 0 ? n : i - 1, i + 1};
    for (std::size_t i = 0; i + 1 < n; ++i) offer(i);
    Rank last = 0;
    while (!queue.empty()) {
        const Offer best = queue.top();
        queue.pop();
        Place& left = places[best.left];
        if (ids[best.left] != best.left_id || left.next >= n || ids[left.next] != best.right_id) continue;
        ids[best.left] = best.candidate.id;
        last = best.candidate.rank;
        ids[left.next] = kNoId;  // gone: no offer can match it any more
        left.next = places[left.next].next;
        if (left.next < n) places[left.next].previous = best.left;
        offer(best.left);
        if (left.previous < n) offer(left.previous);
    }
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; i = places[i].next) ids[count++] = ids[i];
    return {count, last};
}

}  // namespace bpetok
