#include "text.h"

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

template <class Point>
char* write_utf8(const Point* points, std::size_t n, char* out) {
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint32_t c = points[i];
        if (sizeof(Point) == 1 || !is_surrogate(c)) [[likely]] {
            out = put(out, c);
        } else if (is_high(c) && i + 1 < n && is_low(points[i + 1])) {
            out = put(out, 0x10000 + ((c - 0xD800) << 10) + (points[++i] - 0xDC00u));
        } else {
            out = put(out, kReplacement);
        }
    }
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
