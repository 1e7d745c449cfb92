// text.h: text as callers hold it, and its UTF-8.
#pragma once

#include <string>

#include "types.h"
#include "unicode.h"

namespace bpetok {

// Borrowed text: bytes taken as UTF-8, or code points of one, two or four bytes each, as Python keeps its strings.
struct Text {
    enum class Kind : std::uint8_t { bytes, valid_utf8, points1, points2, points4 };

    Kind kind = Kind::bytes;
    const void* data = nullptr;
    std::size_t size = 0;  // bytes, or code points

    Text() = default;
    explicit Text(Bytes text, Kind of = Kind::bytes) : kind(of), data(text.data()), size(text.size()) {}
    Text(Kind of, const void* points, std::size_t n) : kind(of), data(points), size(n) {}

    bool is_wide() const { return kind >= Kind::points1; }
    // Requires: it is not wide.
    Bytes bytes() const { return {static_cast<const char*>(data), size}; }
    // How many bytes one of `size` takes.
    std::size_t unit() const { return kind == Kind::points4 ? 4 : kind == Kind::points2 ? 2 : 1; }
    // How much memory it takes as it is; its UTF-8 takes up to four times that.
    std::size_t memory() const { return size * unit(); }
    // The first of it, and the rest.
    Text first(std::size_t n) const { return Text(kind, data, n); }
    Text from(std::size_t n) const { return Text(kind, static_cast<const char*>(data) + n * unit(), size - n); }
};

// The text as bytes or valid UTF-8: itself if it is that, else written to `scratch`. A lone surrogate becomes U+FFFD,
// the two halves of a pair the character that they make.
Text narrow(const Text& text, std::string& scratch);

}  // namespace bpetok
