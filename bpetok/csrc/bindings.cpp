// bindings.cpp: the only file that knows Python. It converts, releases the GIL and translates errors; nothing else.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>

#include "decode.h"
#include "encode.h"
#include "train.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bpetok {
namespace {

template <class T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
template <class T>
using ReadOnlyArray = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using NoGil = nb::gil_scoped_release;

// The array takes over the vector.
template <class T>
Array<T> to_numpy(std::vector<T>&& values) {
    auto owner = std::make_unique<std::vector<T>>(std::move(values));
    std::vector<T>* kept = owner.get();
    nb::capsule capsule(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    owner.release();
    return Array<T>(kept->data(), {kept->size()}, capsule);
}

nb::bytes to_bytes(Bytes bytes) { return nb::bytes(bytes.data(), bytes.size()); }

nb::list to_list(const Id* ids, std::size_t n) {
    nb::list list = nb::steal<nb::list>(PyList_New(static_cast<Py_ssize_t>(n)));
    if (!list.is_valid()) throw nb::python_error();
    for (std::size_t i = 0; i < n; ++i)
        PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromUnsignedLong(ids[i]));
    return list;
}

// str as UTF-8, bytes as they are; borrowed from the object. A lone surrogate raises UnicodeEncodeError.
Bytes text_of(nb::handle text) {
    if (PyUnicode_Check(text.ptr())) {
        Py_ssize_t size = 0;
        const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
        if (!data) throw nb::python_error();
        return {data, static_cast<std::size_t>(size)};
    }
    if (PyBytes_Check(text.ptr()))
        return {PyBytes_AS_STRING(text.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(text.ptr()))};
    const std::string got = Py_TYPE(text.ptr())->tp_name;
    throw nb::type_error(("text must be str or bytes, got " + got).c_str());
}

std::vector<Bytes> texts_of(nb::sequence texts) {
    std::vector<Bytes> out;
    out.reserve(nb::len(texts));
    for (nb::handle text : texts) out.push_back(text_of(text));
    return out;
}

Id id_of(nb::handle number) {
    const nb::object index = nb::steal(PyNumber_Index(number.ptr()));
    if (!index.is_valid()) throw nb::python_error();
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (value == -1 && PyErr_Occurred()) throw nb::python_error();
    if (overflow != 0 || value < 0 || value > static_cast<long long>(kNoId))
        throw IdRangeError("decode: an id must be in 0 to 4294967295, got " + std::string(nb::str(index).c_str()));
    return static_cast<Id>(value);
}

std::vector<Id> ids_of(nb::handle ids) {
    std::vector<Id> out;
    if (nb::ndarray_check(ids)) {
        if (ReadOnlyArray<Id> array; nb::try_cast(ids, array, false))
            return {array.data(), array.data() + array.size()};
        if (ReadOnlyArray<std::uint16_t> array; nb::try_cast(ids, array, false))
            return {array.data(), array.data() + array.size()};
    }
    for (nb::handle number : ids) out.push_back(id_of(number));
    return out;
}

std::vector<Token> tokens_of(const nb::dict& tokens) {
    std::vector<Token> out;
    out.reserve(nb::len(tokens));
    for (const auto& [bytes, id] : tokens) out.push_back({text_of(bytes), id_of(id)});
    return out;
}

std::vector<Id> encode(const Encoder& encoder, nb::handle text_object) {
    const Bytes text = text_of(text_object);
    const NoGil no_gil;
    std::vector<Id> ids;
    encoder.encode(text, ids);
    return ids;
}

Batch encode_batch(const Encoder& encoder, nb::sequence text_objects, std::size_t threads) {
    const std::vector<Bytes> texts = texts_of(text_objects);
    const NoGil no_gil;
    return encoder.encode_batch(texts, threads);
}

nb::list encode_to_list(const Encoder& self, nb::handle text) {
    const std::vector<Id> ids = encode(self, text);
    return to_list(ids.data(), ids.size());
}

Array<Id> encode_to_numpy(const Encoder& self, nb::handle text) { return to_numpy(encode(self, text)); }

nb::tuple encode_stable(const Encoder& self, const nb::bytes& text) {
    const Bytes bytes = text_of(text);
    std::vector<Id> ids;
    std::size_t covered = 0;
    {
        const NoGil no_gil;
        covered = self.encode_stable(bytes, ids);
    }
    return nb::make_tuple(to_numpy(std::move(ids)), covered);
}

Array<Id> encode_pretokens(const Encoder& self, const nb::bytes& text, ReadOnlyArray<std::int64_t> ends) {
    const Bytes bytes = text_of(text);
    std::vector<Id> ids;
    {
        const NoGil no_gil;
        self.encode_pretokens(bytes, {ends.data(), ends.size()}, ids);
    }
    return to_numpy(std::move(ids));
}

nb::list encode_piece(const Encoder& self, const nb::bytes& piece) {
    std::vector<Id> ids;
    if (const Bytes bytes = text_of(piece); !bytes.empty()) self.merges().encode(bytes, ids);
    return to_list(ids.data(), ids.size());
}

nb::list encode_batch_to_lists(const Encoder& self, nb::sequence texts, std::size_t threads) {
    const Batch batch = encode_batch(self, texts, threads);
    nb::list out;
    for (std::size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
        const std::int64_t begin = batch.offsets[i];
        out.append(to_list(batch.ids.data() + begin, static_cast<std::size_t>(batch.offsets[i + 1] - begin)));
    }
    return out;
}

nb::tuple encode_batch_to_numpy(const Encoder& self, nb::sequence texts, std::size_t threads) {
    Batch batch = encode_batch(self, texts, threads);
    return nb::make_tuple(to_numpy(std::move(batch.ids)), to_numpy(std::move(batch.offsets)));
}

std::size_t count(const Encoder& self, nb::handle text_object) {
    const Bytes text = text_of(text_object);
    const NoGil no_gil;
    return self.count(text);
}

nb::bytes decode(const Decoder& self, nb::handle id_objects) {
    const std::vector<Id> ids = ids_of(id_objects);
    std::string bytes;
    {
        const NoGil no_gil;
        self.decode(ids, bytes);
    }
    return to_bytes(bytes);
}

// Where each pretoken ends, in bytes.
std::vector<std::int64_t> pretoken_ends(Pattern pattern, Bytes text) {
    std::vector<std::int64_t> ends;
    PretokenCursor cursor(pattern, text);
    std::int64_t end = 0;
    for (Bytes pretoken = cursor.next(); !pretoken.empty(); pretoken = cursor.next())
        ends.push_back(end += static_cast<std::int64_t>(pretoken.size()));
    return ends;
}

// Runs the caller's function between merges, and lets Ctrl-C through.
Progress checked_progress(std::optional<nb::callable> progress) {
    return [progress = std::move(progress)](std::size_t made) {
        const nb::gil_scoped_acquire gil;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (progress) (*progress)(made);
    };
}

// The table changes, so these keep the GIL; where there is none, nb::lock_self guards the object.
void count_text(PretokenCounts& self, Bytes pattern, nb::handle text) {
    self.add_text(pattern_named(pattern), text_of(text));
}

std::size_t count_stable(PretokenCounts& self, Bytes pattern, const nb::bytes& text) {
    return self.add_stable(pattern_named(pattern), text_of(text));
}

int char_class(std::uint32_t code_point) {
    if (code_point > kLastCodePoint) throw nb::value_error("a code point must be at most U+10FFFF");
    return static_cast<int>(class_of(code_point));
}

nb::list count_items(const PretokenCounts& self) {
    nb::list out;
    for (const auto& entry : self.entries()) out.append(nb::make_tuple(to_bytes(entry.pretoken), entry.count));
    return out;
}

nb::list train_merges(const PretokenCounts& counts, std::size_t merges, Count min_count,
                      std::optional<nb::callable> progress) {
    const Progress report = checked_progress(std::move(progress));
    std::vector<Merge> made;
    {
        const NoGil no_gil;
        made = train(counts, merges, min_count, report);
    }
    nb::list out;
    for (const Merge& merge : made) out.append(nb::make_tuple(merge.left, merge.right, merge.count));
    return out;
}

void bind_errors() {
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        const auto raise = [](const char* name, const Error& error) {
            const nb::object kind = nb::module_::import_("bpetok.errors").attr(name);
            PyErr_SetObject(kind.ptr(), kind(error.what()).ptr());
        };
        try {
            std::rethrow_exception(thrown);
        } catch (const VocabError& error) {
            raise("VocabError", error);
        } catch (const UnknownIdError& error) {
            raise("UnknownIdError", error);
        } catch (const IdRangeError& error) {
            raise("IdRangeError", error);
        } catch (const DataError& error) {
            raise("DataError", error);
        } catch (const Error& error) {
            raise("BpetokError", error);
        }
    });
}

void bind_encoder(nb::module_& m) {
    const auto make = [](Encoder* self, const nb::dict& tokens, Bytes pattern) {
        const std::vector<Token> list = tokens_of(tokens);
        new (self) Encoder(list, pattern_named(pattern));
    };
    nb::class_<Encoder>(m, "Encoder")
        .def("__init__", make, "tokens"_a, "pattern"_a,
             nb::sig("def __init__(self, tokens: dict[bytes, int], pattern: str) -> None"))
        .def("encode", encode_to_list, "text"_a, nb::sig("def encode(self, text: str | bytes) -> list[int]"))
        .def("encode_to_numpy", encode_to_numpy, "text"_a,
             nb::sig("def encode_to_numpy(self, text: str | bytes) -> numpy.typing.NDArray[numpy.uint32]"))
        .def("encode_stable", encode_stable, "text"_a,
             nb::sig("def encode_stable(self, text: bytes) -> tuple[numpy.typing.NDArray[numpy.uint32], int]"))
        .def("encode_pretokens", encode_pretokens, "text"_a, "ends"_a,
             nb::sig("def encode_pretokens(self, text: bytes, ends: numpy.typing.NDArray[numpy.int64]) -> "
                     "numpy.typing.NDArray[numpy.uint32]"))
        .def("encode_piece", encode_piece, "piece"_a, nb::sig("def encode_piece(self, piece: bytes) -> list[int]"))
        .def("encode_batch", encode_batch_to_lists, "texts"_a, "threads"_a,
             nb::sig("def encode_batch(self, texts: collections.abc.Sequence[str | bytes], threads: int) -> "
                     "list[list[int]]"))
        .def("encode_batch_to_numpy", encode_batch_to_numpy, "texts"_a, "threads"_a,
             nb::sig("def encode_batch_to_numpy(self, texts: collections.abc.Sequence[str | bytes], threads: int) -> "
                     "tuple[numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.int64]]"))
        .def("count", count, "text"_a, nb::sig("def count(self, text: str | bytes) -> int"));
}

void bind_decoder(nb::module_& m) {
    const auto make = [](Decoder* self, const nb::dict& tokens) {
        const std::vector<Token> list = tokens_of(tokens);
        new (self) Decoder(list);
    };
    const auto token = [](const Decoder& self, nb::handle id) { return to_bytes(self.token(id_of(id))); };
    nb::class_<Decoder>(m, "Decoder")
        .def("__init__", make, "tokens"_a, nb::sig("def __init__(self, tokens: dict[bytes, int]) -> None"))
        .def("decode", decode, "ids"_a,
             nb::sig("def decode(self, ids: collections.abc.Iterable[int] | numpy.typing.NDArray[numpy.integer]) -> "
                     "bytes"))
        .def("token", token, "id"_a, nb::sig("def token(self, id: int) -> bytes"));
}

void bind_training(nb::module_& m) {
    const auto add = [](PretokenCounts& self, const nb::bytes& pretoken, Count times) {
        self.add(text_of(pretoken), times);
    };
    nb::class_<PretokenCounts>(m, "PretokenCounts")
        .def(nb::init<>())
        .def("add", add, "pretoken"_a, "times"_a = 1, nb::lock_self(),
             nb::sig("def add(self, pretoken: bytes, times: int = 1) -> None"))
        .def("add_text", count_text, "pattern"_a, "text"_a, nb::lock_self(),
             nb::sig("def add_text(self, pattern: str, text: str | bytes) -> None"))
        .def("add_stable", count_stable, "pattern"_a, "text"_a, nb::lock_self())
        .def("merge", &PretokenCounts::merge, "other"_a.lock(), nb::lock_self())
        .def("items", count_items, nb::lock_self(), nb::sig("def items(self) -> list[tuple[bytes, int]]"))
        .def_prop_ro("total", &PretokenCounts::total)
        .def("__len__", [](const PretokenCounts& self) { return self.entries().size(); });
    m.def("train", train_merges, "counts"_a, "merges"_a, "min_count"_a, "progress"_a.none() = nb::none(),
          nb::sig("def train(counts: PretokenCounts, merges: int, min_count: int, "
                  "progress: collections.abc.Callable[[int], object] | None = None) -> list[tuple[int, int, int]]"));
}

}  // namespace
}  // namespace bpetok

NB_MODULE(_core, m) {
    using namespace bpetok;
    bind_errors();
    bind_encoder(m);
    bind_decoder(m);
    bind_training(m);
    m.def(
        "pretoken_ends",
        [](Bytes pattern, nb::handle text) { return to_numpy(pretoken_ends(pattern_named(pattern), text_of(text))); },
        "pattern"_a, "text"_a,
        nb::sig("def pretoken_ends(pattern: str, text: str | bytes) -> numpy.typing.NDArray[numpy.int64]"));
    m.def("char_class", char_class, "code_point"_a);
    m.attr("unicode_version") = kUnicodeVersion;
    m.attr("version") = BPETOK_VERSION;
}
