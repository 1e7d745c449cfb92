#include "encode.h"

#include <algorithm>
#include <new>

#include "pieces.h"

namespace bpetok {
namespace {

// A text of this size gets room for its ids at once.
constexpr std::size_t kLongText = 1 << 20;

// The memory of ids is recycled that takes so many bytes, and of which so many addresses are known.
constexpr std::size_t kLeastRecycled = 1 << 20, kMostRecycled = 32 << 20, kMostAddresses = 256 << 20;

constinit IdlePool<IdBuffer, 1> spare_ids;  // made before the program runs: no lock that a fork could find held

// Room for as many ids as text that takes so many bytes is likely to have at most.
IdBuffer room_for(std::size_t bytes_of_text) {
    IdBuffer ids;
    if (bytes_of_text >= kLongText) {
        if (const auto spare = spare_ids.take()) ids = std::move(*spare);
    }
    ids.clear();
    ids.expect(bytes_of_text);
    return ids;
}

void refuse(const Specials& specials, Bytes text) {
    if (const auto found = specials.find(text)) throw RefusedSpecial(found->special->text);
}

// Asks for the begin of a text that comes next: the processor itself foresees only what lies behind what it reads. Two
// pages are enough for it to go on by itself.
void prefetch_begin(const Text& text) {
    constexpr std::size_t kMost = 8192, kLine = 64;
    const char* begin = static_cast<const char*>(text.data);
    for (std::size_t i = 0; i < std::min(text.memory(), kMost); i += kLine) __builtin_prefetch(begin + i, 0, 2);
}

void add_up(std::vector<std::int64_t>& offsets) {
    for (std::size_t i = 1; i < offsets.size(); ++i) offsets[i] += offsets[i - 1];
}

// Puts the ids of shares, which threads make in any order, one behind the other. Each share is copied as soon as those
// before it are done, while it is still near the processor, and its memory serves the next one.
class Joiner {
  public:
    Joiner(std::size_t shares, std::size_t bytes_of_text) : parts_(shares), ids_(room_for(bytes_of_text)) {}

    IdBuffer empty_buffer() {
        const std::unique_ptr<IdBuffer> spare = spares_.take();
        return spare ? std::move(*spare) : IdBuffer();
    }

    void add(std::size_t share, IdBuffer made) {
        std::vector<Placed> mine;
        parts_.add(share, std::move(made), [&](IdBuffer& part) {
            if (part.size() > ids_.capacity() - size_) return false;
            mine.push_back({std::move(part), size_});
            size_ += mine.back().part.size();
            return true;
        });
        for (Placed& placed : mine) {
            std::copy_n(placed.part.data(), placed.part.size(), ids_.data() + placed.begin);
            placed.part.clear();
            spares_.give(std::make_unique<IdBuffer>(std::move(placed.part)));
        }
    }

    // Requires: all shares were added.
    IdBuffer joined() {
        ids_.extend_to(ids_.data() + size_);
        parts_.finish([&](const IdBuffer& part) { ids_.append({part.data(), part.size()}); });
        return std::move(ids_);
    }

  private:
    struct Placed {
        IdBuffer part;
        std::size_t begin;
    };

    InOrder<IdBuffer> parts_;
    IdBuffer ids_;
    std::size_t size_ = 0;  // as in `ids_`, with the copies that are not made yet; changes under the lock of `parts_`
    IdlePool<IdBuffer> spares_;
};

}  // namespace

void recycle(IdBuffer&& ids) noexcept {
    const std::size_t used = ids.size() * sizeof(Id);
    if (used < kLeastRecycled || used > kMostRecycled || ids.capacity() * sizeof(Id) > kMostAddresses) return;
    if (auto* spare = new (std::nothrow) IdBuffer(std::move(ids))) spare_ids.give(std::unique_ptr<IdBuffer>(spare));
}

class Encoder::Lease {
  public:
    // `thread`: who the caller is in parallel_for, so that each gets back the caches that it filled.
    Lease(const Encoder& encoder, std::size_t bytes, std::size_t thread = 0)
        : encoder_(encoder), thread_(thread), workspace_(encoder.idle_.take(thread)) {
        if (!workspace_) workspace_ = std::make_unique<Workspace>(encoder.tables_);
        workspace_->expect(bytes);
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    ~Lease() {
        workspace_->tidy();
        encoder_.idle_.give(std::move(workspace_), thread_);
    }

    void encode(const Text& text, const SpecialRules& rules, IdBuffer& ids) {
        if (!rules.allowed && !rules.refused)
            return for_each_narrow(text, [&](const Text& part) { encode_ordinary(part, ids); });
        const Text narrowed = narrow(text, workspace_->scratch());
        const Bytes bytes = narrowed.bytes();
        if (rules.refused) refuse(*rules.refused, bytes);
        std::size_t begin = 0;
        if (rules.allowed) {
            while (const auto found = rules.allowed->find(bytes, begin)) {
                encode_ordinary(Text(bytes.substr(begin, found->begin - begin), narrowed.kind), ids);
                ids.append({&found->special->id, 1});
                begin = found->begin + found->special->text.size();
            }
        }
        encode_ordinary(Text(bytes.substr(begin), narrowed.kind), ids);
    }

    void encode_ordinary(const Text& text, IdBuffer& ids) {
        if (is_valid(text)) return workspace_->encode(text.bytes(), ids);
        for_each_segment(
            text.bytes(), [&](Bytes valid) { workspace_->encode(valid, ids); },
            [&](Bytes invalid) { workspace_->encode_pretoken(invalid, ids); });
    }

    std::size_t count(const Text& text) {
        std::size_t total = 0;
        for_each_narrow(text, [&](const Text& part) {
            if (is_valid(part)) {
                total += workspace_->count(part.bytes());
                return;
            }
            for_each_segment(
                part.bytes(), [&](Bytes valid) { total += workspace_->count(valid); },
                [&](Bytes invalid) { total += workspace_->count_pretoken(invalid); });
        });
        return total;
    }

    Workspace& workspace() { return *workspace_; }

  private:
    // Visits the text as bytes or valid UTF-8; a long wide one in parts, so that each is near the processor when it is
    // read again.
    template <class Visit>
    void for_each_narrow(const Text& text, Visit visit) {
        if (!text.is_wide()) return visit(text);
        for_each_part(text, encoder_.pattern(), [&](const Text& part) { visit(narrow(part, workspace_->scratch())); });
    }

    // Without a pattern the whole text is one pretoken, whatever its bytes.
    bool is_valid(const Text& text) const {
        return text.kind == Text::Kind::valid_utf8 || encoder_.pattern().family == Family::none;
    }

    const Encoder& encoder_;
    std::size_t thread_;
    std::unique_ptr<Workspace> workspace_;
};

Encoder::Encoder(const std::vector<Token>& tokens, MergeTable merges, Pattern pattern, std::size_t cache_bytes)
    : tables_(tokens, std::move(merges), pattern, cache_bytes) {}

void Encoder::encode(const Text& text, const SpecialRules& rules, IdBuffer& ids) const {
    if (ids.size() == 0 && text.memory() >= kLongText) ids = room_for(text.memory());
    Lease(*this, text.memory()).encode(text, rules, ids);
}

void Encoder::clear_cache() const {
    idle_.clear();
    spare_ids.clear();
}

std::size_t Encoder::count(const Text& text) const { return Lease(*this, text.memory()).count(text); }

std::size_t Encoder::encode_stable(Bytes text, IdBuffer& ids) const {
    Lease lease(*this, text.size());
    const std::size_t border = last_sure_border(pattern(), text);
    lease.encode_ordinary(Text(text.substr(0, border)), ids);
    return border + for_each_stable_pretoken(pattern(), text.substr(border),
                                             [&](Bytes pretoken) { lease.workspace().encode_pretoken(pretoken, ids); });
}

void Encoder::encode_pretokens(std::span<const Bytes> pretokens, IdBuffer& ids) const {
    Lease lease(*this, pretokens.size() * 4);
    for (const Bytes pretoken : pretokens)
        if (!pretoken.empty()) lease.workspace().encode_pretoken(pretoken, ids);
}

Batch Encoder::encode_batch(std::span<const Text> texts, const SpecialRules& rules, std::size_t threads) const {
    const std::size_t memory = total_memory(texts);
    threads = std::min(threads, memory / kShareBytes);
    Batch batch;
    batch.offsets.resize(texts.size() + 1);
    if (threads <= 1) {
        Lease lease(*this, memory);
        batch.ids = room_for(memory);
        for (std::size_t i = 0; i < texts.size(); ++i) {
            if (i + 1 < texts.size()) prefetch_begin(texts[i + 1]);
            lease.encode(texts[i], rules, batch.ids);
            batch.offsets[i + 1] = static_cast<std::int64_t>(batch.ids.size());
        }
        return batch;
    }
    // A special token may stand across a border, so texts are cut only where none is looked for.
    if (rules.refused && !rules.allowed) {
        parallel_for(texts.size(), threads, [&](std::size_t i, std::size_t) {
            std::string narrowed;
            refuse(*rules.refused, narrow(texts[i], narrowed).bytes());
        });
        return encode_batch(texts, {}, threads);
    }
    const Pieces pieces(texts, pattern(), rules.allowed != nullptr);
    const std::vector<std::size_t> starts = share_starts(pieces.list());
    Joiner joiner(starts.size() - 1, memory);
    std::vector<std::size_t> sizes(pieces.list().size());
    parallel_for(starts.size() - 1, threads, [&](std::size_t share, std::size_t thread) {
        Lease lease(*this, memory, thread);
        IdBuffer ids = joiner.empty_buffer();
        for (std::size_t i = starts[share]; i < starts[share + 1]; ++i) {
            if (i + 1 < starts[share + 1]) prefetch_begin(pieces.list()[i + 1].part);
            const std::size_t before = ids.size();
            lease.encode(pieces.list()[i].part, rules, ids);
            sizes[i] = ids.size() - before;
        }
        joiner.add(share, std::move(ids));
    });
    for (std::size_t i = 0; i < sizes.size(); ++i)
        batch.offsets[pieces.list()[i].text + 1] += static_cast<std::int64_t>(sizes[i]);
    add_up(batch.offsets);
    batch.ids = joiner.joined();
    return batch;
}

std::vector<std::int64_t> Encoder::count_batch(std::span<const Text> texts, std::size_t threads) const {
    const std::size_t memory = total_memory(texts);
    threads = std::max<std::size_t>(1, std::min(threads, memory / kShareBytes));
    const Pieces pieces(texts, pattern(), threads == 1);
    const std::vector<std::size_t> starts = share_starts(pieces.list());
    std::vector<std::size_t> sizes(pieces.list().size());
    parallel_for(starts.size() - 1, threads, [&](std::size_t share, std::size_t thread) {
        Lease lease(*this, memory, thread);
        for (std::size_t i = starts[share]; i < starts[share + 1]; ++i) {
            if (i + 1 < starts[share + 1]) prefetch_begin(pieces.list()[i + 1].part);
            sizes[i] = lease.count(pieces.list()[i].part);
        }
    });
    std::vector<std::int64_t> counts(texts.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) counts[pieces.list()[i].text] += static_cast<std::int64_t>(sizes[i]);
    return counts;
}

}  // namespace bpetok
