// counts_python.h: counts of pretokens to and from Python, and what long work tells it. For bindings.cpp alone.
#pragma once

#include <nanobind/stl/optional.h>

#include <optional>

#include "counts.h"
#include "from_python.h"
#include "to_python.h"

namespace bpetok {
namespace {

// Lets Ctrl-C through.
void check_signals() {
    const nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

// Runs the caller's function between merges, and lets Ctrl-C through.
Progress checked_progress(std::optional<nb::callable> progress) {
    return [progress = std::move(progress)](std::size_t made) {
        const nb::gil_scoped_acquire gil;
        check_signals();
        if (progress) (*progress)(made);
    };
}

// The table changes, so this keeps the GIL; where there is none, nb::lock_self guards the object.
void count_text(PretokenCounts& self, Bytes pattern, nb::handle text) {
    const OneText one(text);
    std::string narrowed;
    self.add_text(pattern_named(pattern), narrow(one.text, narrowed).bytes());
}

// Counted apart, so that others may run meanwhile.
std::size_t count_texts(PretokenCounts& self, Bytes pattern, nb::handle texts, std::size_t threads,
                        std::optional<nb::callable> progress) {
    const Texts held(texts);
    const Progress report = checked_progress(std::move(progress));
    PretokenCounts counted;
    std::size_t bytes = 0;
    {
        const NoGil no_gil;
        bytes = counted.add_texts(pattern_named(pattern), held.texts, threads, report);
    }
    self.merge(std::move(counted));
    return bytes;
}

std::size_t count_stable(PretokenCounts& self, Bytes pattern, const nb::bytes& text, std::size_t threads) {
    PretokenCounts counted;
    std::size_t covered = 0;
    {
        const NoGil no_gil;
        covered = counted.add_stable(pattern_named(pattern), bytes_of(text), threads);
    }
    self.merge(std::move(counted));
    return covered;
}

nb::list count_items(const PretokenCounts& self) {
    nb::list out;
    for (std::size_t i = 0; i < self.size(); ++i)
        out.append(nb::make_tuple(to_bytes(self.item(i).pretoken), self.item(i).count));
    return out;
}

nb::tuple counts_to_arrays(const PretokenCounts& self) {
    std::vector<std::uint8_t> pretokens;
    std::vector<std::int64_t> sizes, counts;
    pretokens.reserve(self.distinct_bytes());
    for (std::size_t i = 0; i < self.size(); ++i) {
        const auto [pretoken, count] = self.item(i);
        pretokens.insert(pretokens.end(), pretoken.begin(), pretoken.end());
        sizes.push_back(static_cast<std::int64_t>(pretoken.size()));
        counts.push_back(count);
    }
    return nb::make_tuple(to_numpy(std::move(pretokens)), to_numpy(std::move(sizes)), to_numpy(std::move(counts)));
}

void add_arrays(PretokenCounts& self, const ReadOnlyArray<std::uint8_t>& pretokens,
                const ReadOnlyArray<std::int64_t>& sizes, const ReadOnlyArray<std::int64_t>& counts) {
    const Bytes all(reinterpret_cast<const char*>(pretokens.data()), pretokens.size());
    std::size_t begin = 0;
    constexpr std::size_t kTurn = 1 << 18;
    for (std::size_t i = 0; i < sizes.size() && i < counts.size(); ++i) {
        if (i % kTurn == 0) check_signals();
        const auto size = static_cast<std::size_t>(sizes.data()[i]);
        if (size == 0 || size > all.size() - begin) throw DataError("counts: sizes must be those of the pretokens");
        self.add(all.substr(begin, size), counts.data()[i]);
        begin += size;
    }
    if (begin != all.size() || sizes.size() != counts.size())
        throw DataError("counts: there must be a size and a count for each pretoken");
}

}  // namespace
}  // namespace bpetok
