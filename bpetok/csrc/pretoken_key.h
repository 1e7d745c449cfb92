// pretoken_key.h: what pretokens are looked up by.
#pragma once

#include <array>
#include <cstring>

#include "hash.h"
#include "types.h"

namespace bpetok {

// What a pretoken is looked up by. Up to 15 bytes are the key themselves, longer ones are known by their hash.
struct PretokenKey {
    static constexpr std::size_t kMaxShort = 15;
    static constexpr std::uint64_t kLong = ~std::uint64_t{0};

    std::uint64_t low;   // bytes 0 to 7; of a long pretoken its hash
    std::uint64_t high;  // bytes 8 to 14, the length in bits 56 to 59; of a long pretoken kLong
    std::uint64_t hash;

    bool is_long() const { return high == kLong; }
};

// Makes keys. The seed makes hashes unforeseeable.
class KeyMaker {
  public:
    explicit KeyMaker(std::uint64_t seed) : seed_(seed | 1) {}

    // Requires: 0 < length; bytes up to `end` may be read.
    PretokenKey operator()(const char* p, std::size_t length, const char* end) const {
        if (length > PretokenKey::kMaxShort) return of_long({p, length});
        char copy[16] = {};
        if (end - p < 16) [[unlikely]] {
            std::memcpy(copy, p, length);
            p = copy;
        }
        const std::uint64_t low = low_of(p, length), high = high_of(p, length);
        return {low, high, hash(low, high)};
    }

    // The parts of a short pretoken's key. Requires: 16 bytes may be read.
    static std::uint64_t low_of(const char* p, std::size_t length) { return word_at(p) & kMasks[length].low; }
    static std::uint64_t high_of(const char* p, std::size_t length) {
        return (word_at(p + 8) & kMasks[length].high) | static_cast<std::uint64_t>(length) << 56;
    }

    // The hash of a short pretoken's key.
    std::uint64_t hash(std::uint64_t low, std::uint64_t high) const { return mix(low ^ seed_, high ^ kFactor); }

  private:
    static constexpr std::uint64_t kFactor = 0xD6E8FEB86659FD93;
    struct Mask {
        std::uint64_t low, high;
    };
    // By length: the bits of a key's bytes.
    static constexpr std::array<Mask, 16> kMasks = [] {
        std::array<Mask, 16> masks{};
        for (std::size_t n = 1; n < 16; ++n) {
            masks[n].low = ~std::uint64_t{0} >> (n < 8 ? 64 - 8 * n : 0);
            masks[n].high = n > 8 ? ~std::uint64_t{0} >> (128 - 8 * n) : 0;
        }
        return masks;
    }();

    PretokenKey of_long(Bytes bytes) const {
        std::uint64_t hash = seed_ ^ bytes.size();
        const auto add = [&hash](const char* p) { hash = mix(hash ^ word_at(p), kFactor ^ word_at(p + 8)); };
        for (std::size_t i = 0; i + 16 < bytes.size(); i += 16) add(bytes.data() + i);
        add(bytes.data() + bytes.size() - 16);
        return {hash, PretokenKey::kLong, hash};
    }

    std::uint64_t seed_;
};

// The seed of this process, so that nobody can prepare text whose pretokens meet in one place.
std::uint64_t process_seed();

}  // namespace bpetok
