// types.h: the few types that every file of the core shares, and its errors.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bpetok {

using Bytes = std::string_view;  // borrowed bytes: text, a pretoken or a token
using Id = std::uint32_t;        // a token's integer
using Rank = std::uint32_t;      // place in merge order; the lowest merges first
using Count = std::int64_t;      // occurrences; 64 bits everywhere, a 32-bit count overflows on real corpora

inline constexpr Id kNoId = std::numeric_limits<Id>::max();  // never a token's id

// Two tokens that became one.
struct Merge {
    Id left;
    Id right;
    Count count;  // occurrences of the pair when it merged
};

// The core throws, it never prints and never aborts. Each class becomes the one of the same name in errors.py.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct VocabError : Error {
    using Error::Error;
};
struct IdRangeError : Error {
    using Error::Error;
};
struct UnknownIdError : Error {
    using Error::Error;
};
struct DataError : Error {
    using Error::Error;
};
struct FormatError : Error {
    using Error::Error;
};
struct MemoryLimitError : Error {
    using Error::Error;
};
// A special token stands in the text and was not allowed; the message is its text alone.
struct RefusedSpecial : Error {
    using Error::Error;
};

}  // namespace bpetok
