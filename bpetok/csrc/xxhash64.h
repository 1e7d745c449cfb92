// xxhash64.h: XXH64 with seed 0, the published hash that decides which documents validate.
// Source: Cyan4973/xxHash, doc/xxhash_spec.md, "XXH64 Algorithm Description".
#pragma once

#include <bit>
#include <cstring>

#include "types.h"

namespace bpetok {

class XxHash64 {
  public:
    static std::uint64_t of(Bytes bytes) {
        const char *p = bytes.data(), *end = p + bytes.size();
        std::uint64_t hash = bytes.size() >= kStripe ? stripes(p, end) : kPrime5;
        hash += bytes.size();
        for (; end - p >= 8; p += 8) hash = std::rotl(hash ^ round(0, read<std::uint64_t>(p)), 27) * kPrime1 + kPrime4;
        if (end - p >= 4) {
            hash = std::rotl(hash ^ read<std::uint32_t>(p) * kPrime1, 23) * kPrime2 + kPrime3;
            p += 4;
        }
        for (; p < end; ++p) hash = std::rotl(hash ^ static_cast<std::uint8_t>(*p) * kPrime5, 11) * kPrime1;
        hash = (hash ^ hash >> 33) * kPrime2;
        hash = (hash ^ hash >> 29) * kPrime3;
        return hash ^ hash >> 32;
    }

  private:
    static constexpr std::size_t kStripe = 32;
    static constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F,
                                   kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                                   kPrime5 = 0x27D4EB2F165667C5;

    template <class Word>
    static std::uint64_t read(const char* p) {
        static_assert(std::endian::native == std::endian::little);
        Word word;
        std::memcpy(&word, p, sizeof(word));
        return word;
    }

    static std::uint64_t round(std::uint64_t lane, std::uint64_t word) {
        return std::rotl(lane + word * kPrime2, 31) * kPrime1;
    }

    // Takes all whole stripes; `p` is behind them then.
    static std::uint64_t stripes(const char*& p, const char* end) {
        std::uint64_t lanes[4] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
        for (; end - p >= static_cast<std::ptrdiff_t>(kStripe); p += kStripe)
            for (std::size_t i = 0; i < 4; ++i) lanes[i] = round(lanes[i], read<std::uint64_t>(p + 8 * i));
        std::uint64_t hash =
            std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
        for (const std::uint64_t lane : lanes) hash = (hash ^ round(0, lane)) * kPrime1 + kPrime4;
        return hash;
    }
};

}  // namespace bpetok
