// counts.h: how often each pretoken of a text occurs: all that training needs to know of it.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "pretoken_key.h"
#include "pretokenize.h"
#include "scan.h"
#include "tiers.h"
#include "types.h"

namespace bpetok {

// Called now and then with how much is done; may throw to stop the work.
using Progress = std::function<void(std::size_t)>;

// How often each distinct pretoken occurs. Counts of parts of a corpus merge, in any order, to those of the whole.
class PretokenCounts {
  public:
    PretokenCounts();

    // Counts a pretoken `times` more. Throws DataError if it is empty, `times` is under 1, or the total would leave 64
    // bits.
    void add(Bytes pretoken, Count times);

    // Counts every pretoken of a whole text.
    void add_text(Pattern pattern, Bytes text);

    // The same for many texts on up to `threads` threads, and in the same order; returns how many bytes of UTF-8 they
    // hold, and tells `progress` of them on the way. If that throws, some texts are counted and others are not.
    std::size_t add_texts(Pattern pattern, std::span<const Text> texts, std::size_t threads, const Progress& progress);

    // Counts the pretokens that no further text can change; returns how many bytes they cover.
    std::size_t add_stable(Pattern pattern, Bytes text, std::size_t threads);

    // Adds another table's counts. Throws DataError as `add` does; then this table holds a part of them.
    void merge(const PretokenCounts& other);
    void merge(PretokenCounts&& other);

    std::size_t size() const { return entries_.size(); }
    Count total() const { return total_; }                          // pretokens, repeated ones each time
    std::size_t distinct_bytes() const { return distinct_bytes_; }  // of all pretokens, each once

    // The i-th by first occurrence. The bytes last until the table changes.
    struct Item {
        Bytes pretoken;
        Count count;
    };
    Item item(std::size_t i) const { return {bytes_of(entries_[i]), entries_[i].count}; }

  private:
    static constexpr unsigned kLengthShift = 56;  // of a short pretoken's length in the high half of its key

    // A short pretoken is its own key: its bytes in order, then its length. Of a long one `low` tells where it lies.
    struct Entry {
        std::uint64_t low, high;
        Count count;
    };
    // Where an entry is; its hash tells most others apart.
    struct Slot {
        std::uint32_t hash = 0;
        std::uint32_t entry = 0;  // its index plus one; 0: free
    };

    void use(Pattern pattern);
    void add_part(Bytes text, bool is_valid);
    void add_valid(Bytes text);
    void add_chunk(std::size_t n, const char* end);
    void add_key(const PretokenKey& key, Bytes pretoken, Count times);
    void raise_total(Count times);
    bool is(const Entry& entry, const PretokenKey& key, Bytes pretoken) const;
    Bytes bytes_of(const Entry& entry) const {
        if (entry.high == PretokenKey::kLong) return longs_[entry.low];
        return {reinterpret_cast<const char*>(&entry.low), static_cast<std::size_t>(entry.high >> kLengthShift)};
    }
    void grow();
    Bytes keep(Bytes pretoken);

    KeyMaker key_of_;
    std::vector<Entry> entries_;
    std::vector<Slot> slots_;         // at most half of them in use
    std::vector<std::string> arena_;  // blocks that never move once written
    std::vector<Bytes> longs_;
    Count total_ = 0;
    std::size_t distinct_bytes_ = 0;
    std::shared_ptr<const ScanTable> scan_;  // for the pattern that was used last
    std::array<const char*, kScanRoom + 1> starts_;
    std::array<PretokenKey, kScanRoom> keys_;
    std::string scratch_;
};

}  // namespace bpetok
