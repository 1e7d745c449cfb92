// workspace.h: what one thread encodes with: a chunk of pretokens at a time, and the caches.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "cache.h"
#include "id_buffer.h"
#include "long_cache.h"
#include "long_merge.h"
#include "merges.h"
#include "scan.h"

namespace bpetok {

// What all workspaces of an encoder share. Immutable.
struct Tables {
    // `tokens`: those of the table.
    Tables(const std::vector<Token>& tokens, MergeTable table, Pattern pattern, std::size_t cache_bytes);

    MergeTable merges;
    ScanTable scan;
    std::size_t cache_bytes;
    std::string arena;         // the bytes of the seeds
    std::vector<Token> seeds;  // the short tokens of the vocabulary, which a large cache begins with
};

// Encodes valid UTF-8. Serves one thread at a time; what it has met, it keeps for the next call.
class Workspace {
  public:
    explicit Workspace(const Tables& tables);

    // Gets the caches ready for text of about this many bytes.
    void expect(std::size_t bytes);

    // Appends the ids of a text. Requires: it is valid UTF-8, or the pattern is none.
    void encode(Bytes text, IdBuffer& ids);

    // How many ids `encode` would append.
    std::size_t count(Bytes text);

    // Appends the ids of one pretoken, whatever its bytes.
    void encode_pretoken(Bytes pretoken, IdBuffer& ids);
    std::size_t count_pretoken(Bytes pretoken);

    // Room for the caller, kept from call to call.
    std::string& scratch() { return scratch_; }

    // Gives back what a very long text has taken besides the caches. Void after it: what is in scratch().
    void tidy();

  private:
    using Ids = std::span<const Id>;

    void load_keys(std::size_t n, const char* end);
    void emit(std::size_t n, IdBuffer& ids);
    std::size_t count_chunk(std::size_t n);
    const ShortCache::Slot* merge_missing(std::size_t from, std::size_t n);
    bool is_missing(std::size_t i) const;
    void merge_group(std::span<const std::uint16_t> group);
    void keep(const PretokenKey& key, Bytes pretoken, Ids ids);
    Ids look_up(Bytes pretoken);
    Ids resolve(const PretokenKey& key, Bytes pretoken);
    Ids merge(Bytes pretoken);
    void merge_long(Bytes pretoken, IdBuffer& ids);
    Bytes pretoken(std::size_t i) const { return {starts_[i], static_cast<std::size_t>(starts_[i + 1] - starts_[i])}; }

    const Tables& tables_;
    KeyMaker key_of_;
    ShortCache short_;
    LongCache long_;
    bool seeded_ = false;
    std::string scratch_;
    LongMerger long_merger_;
    IdBuffer long_ids_;
    std::array<Id, kShortPretoken> short_ids_;
    std::array<Merged, kMergeGroup> merged_group_;
    std::array<const char*, kScanRoom + 1> starts_;
    std::array<PretokenKey, kScanRoom> keys_;
    std::array<std::uint16_t, kScanRoom> longs_;
};

}  // namespace bpetok
