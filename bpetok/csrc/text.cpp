#include "text.h"

#include <bit>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace bpetok {
namespace {

constexpr std::uint32_t kReplacement = 0xFFFD;

char* put(char* out, std::uint32_t c) {
    const auto byte = [](std::uint32_t value) { return static_cast<char>(static_cast<unsigned char>(value)); };
    const auto tail = [byte](std::uint32_t value) { return byte(0x80 | (value & 0x3F)); };
    if (c < 0x80) {
        out[0] = byte(c);
        return out + 1;
    }
    if (c < 0x800) {
        out[0] = byte(0xC0 | c >> 6);
        out[1] = tail(c);
        return out + 2;
    }
    if (c < 0x10000) {
        out[0] = byte(0xE0 | c >> 12);
        out[1] = tail(c >> 6);
        out[2] = tail(c);
        return out + 3;
    }
    out[0] = byte(0xF0 | c >> 18);
    out[1] = tail(c >> 12);
    out[2] = tail(c >> 6);
    out[3] = tail(c);
    return out + 4;
}

constexpr bool is_surrogate(std::uint32_t c) { return c >= 0xD800 && c < 0xE000; }
constexpr bool is_high(std::uint32_t c) { return c >= 0xD800 && c < 0xDC00; }
constexpr bool is_low(std::uint32_t c) { return c >= 0xDC00 && c < 0xE000; }

constexpr std::size_t kStride = 16;

// All bits that the next kStride code points have. A loop of a fixed length, which the compiler turns into few steps.
template <class Point>
std::uint32_t bits_of_stride(const Point* points) {
    std::uint32_t all = 0;
    for (std::size_t i = 0; i < kStride; ++i) all |= points[i];
    return all;
}

// One code point. Moves i to its last half where it is the pair of two.
template <class Point>
char* put_any(char* out, const Point* points, std::size_t n, std::size_t& i) {
    const std::uint32_t c = points[i];
    if (sizeof(Point) == 1 || !is_surrogate(c)) [[likely]]
        return put(out, c);
    if (is_high(c) && i + 1 < n && is_low(points[i + 1]))
        return put(out, 0x10000 + ((c - 0xD800) << 10) + (points[++i] - 0xDC00u));
    return put(out, kReplacement);
}

// Copies the next kStride code points as if they were ASCII, and returns how many are, up to the first that is not.
template <class Point>
std::size_t copy_ascii(const Point* points, char* out) {
#if defined(__SSE2__)
    if constexpr (sizeof(Point) == 2) {
        const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(points));
        const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(points + kStride / 2));
        const __m128i beyond_ascii = _mm_set1_epi16(static_cast<short>(0xFF80)), zero = _mm_setzero_si128();
        const __m128i is_ascii = _mm_packs_epi16(_mm_cmpeq_epi16(_mm_and_si128(low, beyond_ascii), zero),
                                                 _mm_cmpeq_epi16(_mm_and_si128(high, beyond_ascii), zero));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(low, high));
        return static_cast<std::size_t>(std::countr_one(static_cast<unsigned>(_mm_movemask_epi8(is_ascii))));
    }
#endif
    std::size_t n = 0;
    for (; n < kStride && points[n] < 0x80; ++n) out[n] = static_cast<char>(points[n]);
    return n;
}

template <class Point>
char* write_utf8(const Point* points, std::size_t n, char* out) {
    std::size_t i = 0;
    while (n - i >= kStride) {
        const std::size_t ascii = copy_ascii(points + i, out);
        out += ascii;
        i += ascii;
        if (ascii == kStride || n - i < kStride) continue;
        if (bits_of_stride(points + i) < 0x800) {
            // One byte or two, by turns that cannot be foreseen: both are written, and what counts goes on.
            for (const std::size_t stop = i + kStride; i < stop; ++i) {
                const std::uint32_t c = points[i];
                out[0] = static_cast<char>(c < 0x80 ? c : 0xC0 | c >> 6);
                out[1] = static_cast<char>(0x80 | (c & 0x3F));
                out += 1 + (c >= 0x80);
            }
        } else {
            for (; i < n && points[i] >= 0x80; ++i) out = put_any(out, points, n, i);
        }
    }
    for (; i < n; ++i) out = put_any(out, points, n, i);
    return out;
}

// Most bytes of UTF-8 that a code point of so many bytes becomes.
constexpr std::size_t kGrowth[] = {0, 2, 3, 0, 4};

template <class Point>
Text narrowed(const Text& text, std::string& scratch) {
    const std::size_t most = text.size * kGrowth[sizeof(Point)];
    if (scratch.size() < most) scratch.resize(most);
    const char* end = write_utf8(static_cast<const Point*>(text.data), text.size, scratch.data());
    return Text(Bytes(scratch.data(), static_cast<std::size_t>(end - scratch.data())), Text::Kind::valid_utf8);
}

}  // namespace

Text narrow(const Text& text, std::string& scratch) {
    switch (text.kind) {
        case Text::Kind::points1: return narrowed<std::uint8_t>(text, scratch);
        case Text::Kind::points2: return narrowed<std::uint16_t>(text, scratch);
        case Text::Kind::points4: return narrowed<std::uint32_t>(text, scratch);
        default: return text;
    }
}

}  // namespace bpetok
