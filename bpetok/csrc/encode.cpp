#include "encode.h"

#include "parallel.h"

namespace bpetok {
namespace {

// A thread takes texts of about this many bytes at a time: long enough to be worth it, short enough to share evenly.
constexpr std::size_t kGroupBytes = 1 << 16;

// First text of each group, and the number of texts at the end.
std::vector<std::size_t> group_starts(const std::vector<Bytes>& texts) {
    std::vector<std::size_t> starts{0};
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        bytes += texts[i].size();
        if (bytes >= kGroupBytes || i + 1 == texts.size()) {
            starts.push_back(i + 1);
            bytes = 0;
        }
    }
    return starts;
}

}  // namespace

Encoder::Encoder(const std::vector<Token>& tokens, Pattern pattern) : merges_(tokens), pattern_(pattern) {}

void Encoder::encode(Bytes text, std::vector<Id>& ids) const {
    PretokenCursor cursor(pattern_, text);
    for (Bytes pretoken = cursor.next(); !pretoken.empty(); pretoken = cursor.next()) merges_.encode(pretoken, ids);
}

std::size_t Encoder::encode_stable(Bytes text, std::vector<Id>& ids) const {
    return for_each_stable_pretoken(pattern_, text, [&](Bytes pretoken) { merges_.encode(pretoken, ids); });
}

void Encoder::encode_pretokens(Bytes text, std::span<const std::int64_t> ends, std::vector<Id>& ids) const {
    std::size_t begin = 0;
    for (const std::int64_t end_signed : ends) {
        const auto end = static_cast<std::size_t>(end_signed);
        if (end <= begin || end > text.size()) throw DataError("encode: pretoken ends must rise within the text");
        merges_.encode(text.substr(begin, end - begin), ids);
        begin = end;
    }
    if (begin != text.size()) throw DataError("encode: the last pretoken must end with the text");
}

std::size_t Encoder::count(Bytes text) const {
    std::vector<Id> ids;
    std::size_t total = 0;
    PretokenCursor cursor(pattern_, text);
    for (Bytes pretoken = cursor.next(); !pretoken.empty(); pretoken = cursor.next()) {
        ids.clear();
        merges_.encode(pretoken, ids);
        total += ids.size();
    }
    return total;
}

Batch Encoder::encode_batch(const std::vector<Bytes>& texts, std::size_t threads) const {
    const std::vector<std::size_t> starts = group_starts(texts);
    std::vector<std::vector<Id>> group_ids(starts.size() - 1);
    Batch batch;
    batch.offsets.resize(texts.size() + 1);
    parallel_for(group_ids.size(), threads, [&](std::size_t group) {
        std::vector<Id>& ids = group_ids[group];
        for (std::size_t i = starts[group]; i < starts[group + 1]; ++i) {
            const std::size_t before = ids.size();
            encode(texts[i], ids);
            batch.offsets[i + 1] = static_cast<std::int64_t>(ids.size() - before);
        }
    });
    for (std::size_t i = 0; i < texts.size(); ++i) batch.offsets[i + 1] += batch.offsets[i];
    batch.ids.reserve(static_cast<std::size_t>(batch.offsets.back()));
    for (const std::vector<Id>& ids : group_ids) batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
    return batch;
}

}  // namespace bpetok
