// encode.h: text -> ids. Slow twin: `RegexTokenizer.encode_ordinary` in reference.py.
#pragma once

#include <span>

#include "id_buffer.h"
#include "parallel.h"
#include "pretokenize.h"
#include "specials.h"
#include "text.h"
#include "types.h"
#include "workspace.h"

namespace bpetok {

// Which special tokens a call takes as what. nullptr: none.
struct SpecialRules {
    const Specials* allowed = nullptr;  // become their id
    const Specials* refused = nullptr;  // must not be in the text
};

// The ids of many texts, one behind the other: text i has ids[offsets[i]] to ids[offsets[i + 1]].
struct Batch {
    IdBuffer ids;
    std::vector<std::int64_t> offsets;
};

// Takes ids that are done with, and keeps their memory for the next long text or batch if it is large but not too large
// and none is kept yet: the system clears the memory that it hands out, which is a tenth of what encoding costs.
void recycle(IdBuffer&& ids) noexcept;

// Encodes text with one vocabulary and one pattern; any thread may use it. Ids do not depend on the caches.
class Encoder {
  public:
    // `tokens`: those of the table. `cache_bytes`: what the caches of one thread may take; 0 for none.
    Encoder(const std::vector<Token>& tokens, MergeTable merges, Pattern pattern, std::size_t cache_bytes);

    // Appends the ids of a whole text; see PretokenCursor for what is not UTF-8. Special tokens that the rules do not
    // name are text. Throws RefusedSpecial.
    void encode(const Text& text, const SpecialRules& rules, IdBuffer& ids) const;

    // Appends the ids that no further text can change, and returns how many bytes they cover. Encoding the rest of
    // `text` together with what follows continues exactly.
    std::size_t encode_stable(Bytes text, IdBuffer& ids) const;

    // Appends the ids of pretokens that the caller has cut.
    void encode_pretokens(std::span<const Bytes> pretokens, IdBuffer& ids) const;

    // How many ids `encode` would append, without keeping them.
    std::size_t count(const Text& text) const;

    // The same as `encode` for each text, on up to `threads` threads; they share long texts too.
    Batch encode_batch(std::span<const Text> texts, const SpecialRules& rules, std::size_t threads) const;

    // The same as `count` for each text.
    std::vector<std::int64_t> count_batch(std::span<const Text> texts, std::size_t threads) const;

    // Gives back the memory of the caches that are not in use, and of spare ids.
    void clear_cache() const;

    // The tokens that no merge makes; see MergeTable.
    std::vector<Bytes> unreachable() const { return tables_.merges.unreachable(); }

    Pattern pattern() const { return tables_.scan.pattern(); }

  private:
    class Lease;  // of a workspace, for one call or one thread of it

    Tables tables_;
    mutable IdlePool<Workspace> idle_;
};

}  // namespace bpetok
