// documents_python.h: what writing shards needs of the core, for Python. For bindings.cpp alone.
#pragma once

#include <nanobind/ndarray.h>

#include "documents.h"
#include "from_python.h"
#include "pretokenize.h"
#include "to_python.h"
#include "xxhash64.h"

namespace bpetok {
namespace {

using namespace nb::literals;

#define ARRAY(type) "numpy.typing.NDArray[numpy." type "]"

template <class Out>
void bind_lay_out(nb::module_& m, const char* signature) {
    using Room = nb::ndarray<Out, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    const auto run = [](const ReadOnlyArray<Id>& ids, const ReadOnlyArray<std::int64_t>& offsets,
                        const ReadOnlyArray<std::uint8_t>& marks, Id end_of_text, const Room& out) {
        lay_out<Out>({ids.data(), ids.size()}, {offsets.data(), offsets.size()}, {marks.data(), marks.size()},
                     end_of_text, {out.data(), out.size()});
    };
    m.def("lay_out", run, "ids"_a, "offsets"_a, "marks"_a, "end_of_text"_a, "out"_a.noconvert(), nb::sig(signature));
}

#define LAY_OUT                                                                         \
    "def lay_out(ids: " ARRAY("uint32") ", offsets: " ARRAY("int64") ", marks: " ARRAY( \
        "uint8") ", end_of_text: int, out: "

void bind_documents(nb::module_& m) {
    bind_lay_out<std::uint16_t>(m, LAY_OUT ARRAY("uint16") ") -> None");
    bind_lay_out<std::uint32_t>(m, LAY_OUT ARRAY("uint32") ") -> None");
    const auto border = [](Bytes pattern, const nb::bytes& text, std::size_t start) {
        return first_sure_border(pattern_named(pattern), Text(bytes_of(text)), start);
    };
    m.def("first_sure_border", border, "pattern"_a, "text"_a, "start"_a);
    const auto lines = [](const nb::bytes& start, const nb::bytes& text, std::size_t from) {
        return to_numpy(lines_that_begin_with(bytes_of(start), bytes_of(text), from));
    };
    m.def("lines_that_begin_with", lines, "start"_a, "text"_a, "begin"_a = 0,
          nb::sig("def lines_that_begin_with(start: bytes, text: bytes, begin: int = 0) -> " ARRAY("int64")));
    m.def("xxh64", [](const nb::bytes& data) { return XxHash64::of(bytes_of(data)); }, "data"_a);
}

#undef LAY_OUT
#undef ARRAY

}  // namespace
}  // namespace bpetok
