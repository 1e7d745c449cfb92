// block.h: 64 bytes of text at once. Each question gives a mask whose bit i answers it for byte i.
//
// Which instructions it uses is up to the flags that the including file is compiled with; scan_tier.cpp is compiled
// once for each tier. Everything here is private to the including file, so that tiers do not mix when linking.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace bpetok {
namespace {

#if defined(__AVX512BW__)

class Block {
  public:
    explicit Block(const char* p) : bytes_(_mm512_loadu_si512(p)) {}

    std::uint64_t equal(char c) const { return _mm512_cmpeq_epi8_mask(bytes_, _mm512_set1_epi8(c)); }
    // Bytes from first to last, both included; as unsigned numbers.
    std::uint64_t between(std::uint8_t first, std::uint8_t last) const {
        const __m512i shifted = _mm512_sub_epi8(bytes_, _mm512_set1_epi8(static_cast<char>(first)));
        return _mm512_cmple_epu8_mask(shifted, _mm512_set1_epi8(static_cast<char>(last - first)));
    }
    std::uint64_t not_ascii() const { return _mm512_movepi8_mask(bytes_); }
    // ASCII letters made lower-case; other bytes become bytes that are no letters.
    Block lower() const { return Block(_mm512_or_si512(bytes_, _mm512_set1_epi8(0x20))); }

  private:
    explicit Block(__m512i bytes) : bytes_(bytes) {}
    __m512i bytes_;
};

#else

#if defined(__AVX2__)

struct Lane {
    static constexpr int kBytes = 32;
    __m256i bytes;

    static Lane load(const char* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
    std::uint64_t equal(char c) const { return mask(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(c))); }
    std::uint64_t between(std::uint8_t first, std::uint8_t last) const {
        const __m256i shifted = _mm256_sub_epi8(bytes, _mm256_set1_epi8(static_cast<char>(first)));
        const __m256i width = _mm256_set1_epi8(static_cast<char>(last - first));
        return mask(_mm256_cmpeq_epi8(_mm256_min_epu8(shifted, width), shifted));
    }
    std::uint64_t not_ascii() const { return mask(bytes); }
    Lane lower() const { return {_mm256_or_si256(bytes, _mm256_set1_epi8(0x20))}; }
    static std::uint64_t mask(__m256i lane) { return static_cast<std::uint32_t>(_mm256_movemask_epi8(lane)); }
};

#elif defined(__SSE2__)

struct Lane {
    static constexpr int kBytes = 16;
    __m128i bytes;

    static Lane load(const char* p) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))}; }
    std::uint64_t equal(char c) const { return mask(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(c))); }
    std::uint64_t between(std::uint8_t first, std::uint8_t last) const {
        const __m128i shifted = _mm_sub_epi8(bytes, _mm_set1_epi8(static_cast<char>(first)));
        const __m128i width = _mm_set1_epi8(static_cast<char>(last - first));
        return mask(_mm_cmpeq_epi8(_mm_min_epu8(shifted, width), shifted));
    }
    std::uint64_t not_ascii() const { return mask(bytes); }
    Lane lower() const { return {_mm_or_si128(bytes, _mm_set1_epi8(0x20))}; }
    static std::uint64_t mask(__m128i lane) { return static_cast<std::uint16_t>(_mm_movemask_epi8(lane)); }
};

#elif defined(__ARM_NEON) && defined(__aarch64__)

struct Lane {
    static constexpr int kBytes = 16;
    uint8x16_t bytes;

    static Lane load(const char* p) { return {vld1q_u8(reinterpret_cast<const std::uint8_t*>(p))}; }
    std::uint64_t equal(char c) const { return mask(vceqq_u8(bytes, vdupq_n_u8(static_cast<std::uint8_t>(c)))); }
    std::uint64_t between(std::uint8_t first, std::uint8_t last) const {
        const uint8x16_t shifted = vsubq_u8(bytes, vdupq_n_u8(first));
        return mask(vcleq_u8(shifted, vdupq_n_u8(static_cast<std::uint8_t>(last - first))));
    }
    std::uint64_t not_ascii() const { return mask(vcgeq_u8(bytes, vdupq_n_u8(0x80))); }
    Lane lower() const { return {vorrq_u8(bytes, vdupq_n_u8(0x20))}; }
    static std::uint64_t mask(uint8x16_t lane) {
        const uint8x16_t bits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
        const uint8x16_t kept = vandq_u8(lane, bits);
        return static_cast<std::uint64_t>(vaddv_u8(vget_low_u8(kept))) |
               static_cast<std::uint64_t>(vaddv_u8(vget_high_u8(kept))) << 8;
    }
};

#else

struct Lane {
    static constexpr int kBytes = 1;
    std::uint8_t byte;

    static Lane load(const char* p) { return {static_cast<std::uint8_t>(*p)}; }
    std::uint64_t equal(char c) const { return byte == static_cast<std::uint8_t>(c); }
    std::uint64_t between(std::uint8_t first, std::uint8_t last) const { return byte >= first && byte <= last; }
    std::uint64_t not_ascii() const { return byte >> 7; }
    Lane lower() const { return {static_cast<std::uint8_t>(byte | 0x20)}; }
};

#endif

class Block {
  public:
    explicit Block(const char* p) {
        for (int i = 0; i < kLanes; ++i) lanes_[i] = Lane::load(p + i * Lane::kBytes);
    }

    std::uint64_t equal(char c) const {
        return gather([c](const Lane& lane) { return lane.equal(c); });
    }
    // Bytes from first to last, both included; as unsigned numbers.
    std::uint64_t between(std::uint8_t first, std::uint8_t last) const {
        return gather([first, last](const Lane& lane) { return lane.between(first, last); });
    }
    std::uint64_t not_ascii() const {
        return gather([](const Lane& lane) { return lane.not_ascii(); });
    }
    // ASCII letters made lower-case; other bytes become bytes that are no letters.
    Block lower() const {
        Block out = *this;
        for (Lane& lane : out.lanes_) lane = lane.lower();
        return out;
    }

  private:
    static constexpr int kLanes = 64 / Lane::kBytes;

    template <class Ask>
    std::uint64_t gather(Ask ask) const {
        std::uint64_t mask = 0;
        for (int i = 0; i < kLanes; ++i) mask |= ask(lanes_[i]) << (i * Lane::kBytes);
        return mask;
    }

    Lane lanes_[kLanes];
};

#endif

}  // namespace
}  // namespace bpetok
