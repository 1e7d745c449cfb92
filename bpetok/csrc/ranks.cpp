#include "ranks.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

namespace bpetok {
namespace {

constexpr std::uint8_t kNoDigit = 64;

constexpr std::array<std::uint8_t, 256> kDigits = [] {
    std::array<std::uint8_t, 256> digits{};
    digits.fill(kNoDigit);
    const std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t i = 0; i < alphabet.size(); ++i)
        digits[static_cast<unsigned char>(alphabet[i])] = static_cast<std::uint8_t>(i);
    return digits;
}();

// Appends what base64 stands for; false if it is none.
bool decode_base64(Bytes text, std::string& out) {
    if (text.empty() || text.size() % 4 != 0) return false;
    const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
    text.remove_suffix(padding);
    std::uint32_t bits = 0, held = 0;
    for (const char c : text) {
        const std::uint8_t digit = kDigits[static_cast<unsigned char>(c)];
        if (digit == kNoDigit) return false;
        bits = bits << 6 | digit;
        held += 6;
        if (held < 8) continue;
        held -= 8;
        out += static_cast<char>(static_cast<unsigned char>(bits >> held));
    }
    return true;
}

}  // namespace

Ranks::Ranks(Bytes contents, Bytes where) {
    arena_.reserve(contents.size());  // so that the views into it stay valid: base64 is longer than what it stands for
    tokens_.reserve(contents.size() / 16);
    std::size_t number = 0;
    while (!contents.empty()) {
        const std::size_t length = std::min(contents.find('\n'), contents.size());
        Bytes line = contents.substr(0, length);
        contents.remove_prefix(std::min(length + 1, contents.size()));
        if (line.ends_with('\r')) line.remove_suffix(1);
        ++number;
        if (!line.empty() && !add_line(line))
            throw FormatError(std::string(where) + ":" + std::to_string(number) +
                              ": must be base64, a space and a rank, got " + quoted(line.substr(0, 60)));
    }
}

Ranks::Ranks(std::span<const Token> alphabet, Id next_id, std::vector<Merge> merges) : merges_(std::move(merges)) {
    std::vector<std::size_t> sizes(next_id + merges_.size()), begins(sizes.size());
    std::size_t total = 0;
    for (const auto& [bytes, id] : alphabet) total += sizes[id] = bytes.size();
    for (std::size_t i = 0; i < merges_.size(); ++i)
        total += sizes[next_id + i] = sizes[merges_[i].left] + sizes[merges_[i].right];
    arena_.reserve(total);  // so that the views into it stay valid
    tokens_.reserve(alphabet.size() + merges_.size());
    const auto add = [&](Id id, Bytes left, Bytes right) {
        begins[id] = arena_.size();
        arena_ += left;
        arena_ += right;
        tokens_.push_back({Bytes(arena_).substr(begins[id]), id});
    };
    const auto token = [&](Id id) { return Bytes(arena_).substr(begins[id], sizes[id]); };
    for (const auto& [bytes, id] : alphabet) add(id, bytes, {});
    for (std::size_t i = 0; i < merges_.size(); ++i)
        add(next_id + static_cast<Id>(i), token(merges_[i].left), token(merges_[i].right));
}

const Bytes* Ranks::first_token(std::span<const Bytes> texts) const {
    const std::unordered_set<Bytes> wanted(texts.begin(), texts.end());
    std::unordered_set<Bytes> found;
    for (const Token& token : tokens_)
        if (wanted.contains(token.bytes)) found.insert(token.bytes);
    const auto first = std::find_if(texts.begin(), texts.end(), [&](Bytes text) { return found.contains(text); });
    return first == texts.end() ? nullptr : &*first;
}

bool Ranks::add_line(Bytes line) {
    const std::size_t space = std::min(line.find(' '), line.size());
    const std::size_t begin = arena_.size();
    std::uint32_t rank = 0;
    const char *digits = line.data() + std::min(space + 1, line.size()), *end = line.data() + line.size();
    const auto number = std::from_chars(digits, end, rank);
    const bool is_number = digits < end && number.ec == std::errc() && number.ptr == end;
    if (!is_number || !decode_base64(line.substr(0, space), arena_)) return false;
    tokens_.push_back({Bytes(arena_).substr(begin), rank});
    return true;
}

}  // namespace bpetok
