// unicode.h: UTF-8 and the character classes of the split patterns (Unicode 16.0, see make_unicode_tables.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "unicode_tables.inc"

namespace bpetok {

// The classes that the named patterns tell apart. `upper` is \p{Lu}\p{Lt}, `letter` is \p{Lm}\p{Lo}.
enum class CharClass : std::uint8_t { other, upper, lower, letter, mark, number, space };

inline constexpr std::uint32_t kLastCodePoint = 0x10FFFF;

// Requires: code_point <= kLastCodePoint.
inline CharClass class_of(std::uint32_t code_point) {
    const std::uint32_t block = kUnicodeStage1[code_point / kUnicodeBlock];
    return static_cast<CharClass>(kUnicodeStage2[block * kUnicodeBlock + code_point % kUnicodeBlock]);
}

inline std::uint8_t byte_at(const char* p) { return static_cast<std::uint8_t>(*p); }

// One character of valid UTF-8: its class and how many bytes it takes.
struct Char {
    CharClass cls;
    std::uint8_t length;
};

// Reads the character at p. Requires: [p, end of text) is valid UTF-8 and not empty.
inline Char read_char(const char* p) {
    const std::uint32_t first = byte_at(p);
    if (first < 0x80) return {static_cast<CharClass>(kUnicodeStage2[first]), 1};
    const auto tail = [p](int i) { return static_cast<std::uint32_t>(byte_at(p + i) & 0x3F); };
    if (first < 0xE0) return {class_of((first & 0x1F) << 6 | tail(1)), 2};
    if (first < 0xF0) return {class_of((first & 0x0F) << 12 | tail(1) << 6 | tail(2)), 3};
    return {class_of((first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3)), 4};
}

// Bytes of the well-formed UTF-8 sequence at p (Unicode 16.0, table 3-7), 0 if there is none. Requires p < end.
inline std::size_t utf8_length(const char* p, const char* end) {
    const std::uint8_t first = byte_at(p);
    if (first < 0x80) return 1;
    const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (first < 0xC2 || first > 0xF4 || static_cast<std::size_t>(end - p) < length) return 0;
    const std::uint8_t lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const std::uint8_t highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (byte_at(p + 1) < lowest || byte_at(p + 1) > highest) return 0;
    for (std::size_t i = 2; i < length; ++i)
        if ((byte_at(p + i) & 0xC0) != 0x80) return 0;
    return length;
}

// Behind the valid UTF-8 that begins at p.
inline const char* skip_valid(const char* p, const char* end) {
    while (p < end) {
        while (end - p >= 8) {
            std::uint64_t word;
            std::memcpy(&word, p, 8);
            if (word & 0x8080808080808080) break;
            p += 8;
        }
        if (p == end) break;
        const std::size_t length = utf8_length(p, end);
        if (length == 0) break;
        p += length;
    }
    return p;
}

// Behind the bytes that begin no valid character.
inline const char* skip_invalid(const char* p, const char* end) {
    while (p < end && utf8_length(p, end) == 0) ++p;
    return p;
}

}  // namespace bpetok
