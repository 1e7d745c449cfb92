// bindings.cpp: the seam to Python, with the headers from_python.h, to_python.h and counts_python.h, which it alone
// includes. It converts, releases the GIL and translates errors; nothing else.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <set>

#include "counts_python.h"
#include "decode.h"
#include "documents_python.h"
#include "encode.h"
#include "from_python.h"
#include "merge_list.h"
#include "ranks.h"
#include "to_python.h"
#include "train.h"

using namespace nb::literals;

namespace bpetok {
namespace {

std::vector<Token> tokens_of(const nb::dict& tokens) {
    std::vector<Token> out;
    out.reserve(nb::len(tokens));
    for (const auto& [bytes, id] : tokens) out.push_back({text_of(bytes).bytes(), id_of(id)});
    return out;
}

using MergePairs = std::vector<std::pair<Id, Id>>;

std::vector<ListedMerge> listed_merges(const MergePairs& pairs) {
    std::vector<ListedMerge> merges;
    merges.reserve(pairs.size());
    for (const auto& [left, right] : pairs) merges.push_back({left, right});
    return merges;
}

// An Encoder with what Python needs beside it.
class PythonEncoder {
  public:
    PythonEncoder(const std::vector<Token>& tokens, MergeTable merges, Bytes pattern, std::size_t cache_mb)
        : core(tokens, std::move(merges), pattern_named(pattern), cache_mb << 20) {}

    Encoder core;
    Integers integers;
};

// The ids of one call, in memory that is kept for the next, so that short texts need none. A call within a call (Python
// may run other code when it makes an object) finds nothing kept and has ids of its own.
class CallIds {
  public:
    CallIds() : ids_(std::move(kept())) { ids_.clear(); }
    CallIds(const CallIds&) = delete;
    CallIds& operator=(const CallIds&) = delete;
    ~CallIds() {
        if (ids_.capacity() <= kMostKept) {
            kept() = std::move(ids_);
        } else {
            recycle(std::move(ids_));
        }
    }

    IdBuffer& operator*() { return ids_; }
    IdBuffer* operator->() { return &ids_; }

  private:
    static constexpr std::size_t kMostKept = 1 << 14;  // ids

    static IdBuffer& kept() {
        static thread_local IdBuffer ids;
        return ids;
    }

    IdBuffer ids_;
};

void encode(const PythonEncoder& self, nb::handle object, const SpecialRules& rules, IdBuffer& ids) {
    const OneText one(object);
    const NoGilIf no_gil(one.text.memory() > kShortText);
    self.core.encode(one.text, rules, ids);
}

nb::object encode_to_list(PythonEncoder& self, nb::handle text, const Specials* allowed, const Specials* refused) {
    CallIds ids;
    encode(self, text, {allowed, refused}, *ids);
    return self.integers.list(ids->data(), ids->size());
}

nb::object encode_to_numpy(const PythonEncoder& self, nb::handle text, const Specials* allowed,
                           const Specials* refused) {
    CallIds ids;
    encode(self, text, {allowed, refused}, *ids);
    return to_numpy(*ids);
}

nb::tuple encode_stable(const PythonEncoder& self, const nb::bytes& text) {
    CallIds ids;
    std::size_t covered = 0;
    {
        const NoGil no_gil;
        covered = self.core.encode_stable(bytes_of(text), *ids);
    }
    return nb::make_tuple(to_numpy(*ids), covered);
}

// Some at a time, so that what is noted of them stays near the processor.
nb::object encode_pretokens(const PythonEncoder& self, nb::handle pretokens) {
    constexpr Py_ssize_t kSome = 4096;
    const nb::object kept = checked(PySequence_Tuple(pretokens.ptr()));
    const Py_ssize_t size = PyTuple_GET_SIZE(kept.ptr());
    CallIds ids;
    std::vector<std::string> narrowed(kSome);
    std::vector<Bytes> bytes;
    for (Py_ssize_t begin = 0; begin < size; begin += kSome) {
        const Texts texts(checked(PyTuple_GetSlice(kept.ptr(), begin, begin + kSome)));
        const NoGil no_gil;
        bytes.clear();
        for (const Text& text : texts.texts) bytes.push_back(narrow(text, narrowed[bytes.size()]).bytes());
        self.core.encode_pretokens(bytes, *ids);
    }
    return to_numpy(*ids);
}

nb::object encode_piece(PythonEncoder& self, const nb::bytes& piece) {
    CallIds ids;
    const Bytes bytes = bytes_of(piece);
    self.core.encode_pretokens({&bytes, 1}, *ids);
    return self.integers.list(ids->data(), ids->size());
}

Batch encode_batch(const PythonEncoder& self, nb::handle sequence, std::size_t threads, const SpecialRules& rules) {
    const Texts texts(sequence);
    const NoGil no_gil;
    return self.core.encode_batch(texts.texts, rules, threads);
}

nb::object encode_batch_to_lists(PythonEncoder& self, nb::handle texts, std::size_t threads, const Specials* allowed,
                                 const Specials* refused) {
    Batch batch = encode_batch(self, texts, threads, {allowed, refused});
    const std::size_t n = batch.offsets.size() - 1;
    const NoCollection no_collection;
    nb::object out = checked(PyList_New(static_cast<Py_ssize_t>(n)));
    for (std::size_t i = 0; i < n; ++i) {
        const std::int64_t begin = batch.offsets[i];
        nb::object list =
            self.integers.list(batch.ids.data() + begin, static_cast<std::size_t>(batch.offsets[i + 1] - begin));
        PyList_SET_ITEM(out.ptr(), static_cast<Py_ssize_t>(i), list.release().ptr());
    }
    recycle(std::move(batch.ids));
    return out;
}

nb::tuple encode_batch_to_numpy(const PythonEncoder& self, nb::handle texts, std::size_t threads) {
    Batch batch = encode_batch(self, texts, threads, {});
    return nb::make_tuple(to_numpy(batch.ids), to_numpy(std::move(batch.offsets)));
}

std::size_t count(const PythonEncoder& self, nb::handle object) {
    const OneText one(object);
    const NoGilIf no_gil(one.text.memory() > kShortText);
    return self.core.count(one.text);
}

std::vector<std::int64_t> count_batch(const PythonEncoder& self, nb::handle sequence, std::size_t threads) {
    const Texts texts(sequence);
    const NoGil no_gil;
    return self.core.count_batch(texts.texts, threads);
}

// Room on the stack for the bytes of few ids.
class FewBytes {
  public:
    FewBytes(const Decoder& decoder, std::span<const Id> ids) {
        if (ids.size() <= kFew) size_ = decoder.decode_short(ids, room_.data());
    }

    // Nothing if the ids are many, or not all of them known and short.
    std::optional<Bytes> get() const { return size_ ? std::optional(Bytes(room_.data(), *size_)) : std::nullopt; }

  private:
    static constexpr std::size_t kFew = 2048;
    std::array<char, kFew * Decoder::kRoom> room_;
    std::optional<std::size_t> size_;
};

nb::object decode_to_bytes(const Decoder& self, nb::handle id_objects) {
    const Ids ids(id_objects);
    const FewBytes bytes_of_few(self, ids.view());
    if (const auto few = bytes_of_few.get()) return to_bytes(*few);
    const std::size_t size = self.size(ids.view());
    const nb::object bytes = checked(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
    char* data = PyBytes_AS_STRING(bytes.ptr());
    const NoGilIf no_gil(size > kShortText);
    self.decode(ids.view(), data);
    return bytes;
}

nb::object decode_to_str(const Decoder& self, nb::handle id_objects, const char* errors) {
    const Ids ids(id_objects);
    const FewBytes bytes_of_few(self, ids.view());
    if (const auto few = bytes_of_few.get())
        return checked(PyUnicode_DecodeUTF8(few->data(), static_cast<Py_ssize_t>(few->size()), errors));
    const std::size_t size = self.size(ids.view());
    const auto bytes = std::make_unique_for_overwrite<char[]>(size);
    {
        const NoGilIf no_gil(size > kShortText);
        self.decode(ids.view(), bytes.get());
    }
    return checked(PyUnicode_DecodeUTF8(bytes.get(), static_cast<Py_ssize_t>(size), errors));
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

int char_class(std::uint32_t code_point) {
    if (code_point > kLastCodePoint) throw nb::value_error("a code point must be at most U+10FFFF");
    return static_cast<int>(class_of(code_point));
}

// The pair that makes each token that a list of merges makes, in the order in which they merge.
std::vector<std::pair<Id, Id>> ordered_merges(const nb::dict& tokens, const MergePairs& merges) {
    const OrderedTokens ordered = order_by_list(tokens_of(tokens), listed_merges(merges));
    std::vector<std::pair<Id, Id>> pairs;
    for (const Merge& merge : ordered.merges) pairs.emplace_back(ordered.given[merge.left], ordered.given[merge.right]);
    return pairs;
}

// What training gave, for Python.
struct Trained {
    Ranks ranks;
    Count tokens;
};

using PythonTokens = std::vector<std::pair<nb::bytes, Id>>;

Alphabet alphabet_of(const PythonTokens& tokens, Id next_id, const PythonEncoder* encoder) {
    Alphabet alphabet{{}, next_id, encoder ? &encoder->core : nullptr};
    for (const auto& [bytes, id] : tokens) {
        if (id >= next_id)
            throw VocabError("train: ids must be under that of the first merge, got " + std::to_string(id));
        alphabet.tokens.push_back({bytes_of(bytes), id});
    }
    std::set<Bytes> bytes;
    for (const Token& token : alphabet.tokens)
        if (token.bytes.size() == 1) bytes.insert(token.bytes);
    if (bytes.size() < 256 || (!encoder && alphabet.tokens.size() > 256))
        throw DataError("train: an alphabet must have each of the 256 bytes once");
    return alphabet;
}

TieBreak tie_break_named(Bytes name) {
    if (name == "largest") return TieBreak::greatest_bytes;
    return name == "first" ? TieBreak::first_in_text : TieBreak::smallest_ids;
}

std::function<bool(Bytes)> asked(std::optional<nb::callable> may_make) {
    if (!may_make) return nullptr;
    return [may_make = std::move(may_make)](Bytes token) {
        const nb::gil_scoped_acquire gil;
        return nb::cast<bool>((*may_make)(to_bytes(token)));
    };
}

std::unique_ptr<Trained> train_ranks(const PretokenCounts& counts, const PythonTokens& tokens, Id next_id,
                                     std::size_t merges, Count min_count, std::size_t max_token_bytes, Bytes tie_break,
                                     const PythonEncoder* encoder, std::optional<nb::callable> may_make,
                                     std::size_t memory_limit, std::optional<nb::callable> progress) {
    const Alphabet alphabet = alphabet_of(tokens, next_id, encoder);
    const TrainingRules rules{merges,          min_count,   max_token_bytes, tie_break_named(tie_break),
                              asked(may_make), memory_limit};
    const Progress report = checked_progress(std::move(progress));
    // With the GIL, so that nobody changes the counts meanwhile.
    Words words(counts, alphabet, rules.tie_break == TieBreak::first_in_text, check_signals);
    const NoGil no_gil;
    Training made = train(std::move(words), alphabet, rules, report);
    return std::unique_ptr<Trained>(new Trained{{alphabet.tokens, next_id, std::move(made.merges)}, made.tokens});
}

void bind_errors() {
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        const auto raise = [](const char* name, const Error& error) {
            const nb::object kind = nb::module_::import_("bpetok.errors").attr(name);
            PyErr_SetObject(kind.ptr(), kind(error.what()).ptr());
        };
        try {
            std::rethrow_exception(thrown);
        } catch (const RefusedSpecial& error) {
            const nb::object make = nb::module_::import_("bpetok.errors").attr("special_token_refused");
            const nb::object refusal = make(error.what());
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(refusal.ptr())), refusal.ptr());
        } catch (const VocabError& error) {
            raise("VocabError", error);
        } catch (const FormatError& error) {
            raise("FormatError", error);
        } catch (const MemoryLimitError& error) {
            raise("MemoryLimitError", error);
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

#define TEXT "str | bytes | bytearray | memoryview"
#define TEXTS "collections.abc.Sequence[" TEXT "]"
#define RULES "allowed: Specials | None = None, refused: Specials | None = None"
#define IDS "numpy.typing.NDArray[numpy.uint32]"

void bind_specials(nb::module_& m) {
    const auto make = [](Specials* self, const nb::dict& specials) {
        std::vector<Specials::Special> list;
        for (const auto& [text, id] : specials) list.push_back({nb::cast<std::string>(text), id_of(id)});
        new (self) Specials(std::move(list));
    };
    const auto refuse = [](const Specials& self, const nb::bytes& text) {
        if (const auto found = self.find(bytes_of(text))) throw RefusedSpecial(found->special->text);
    };
    // The text between special tokens, and their ids, in order.
    const auto split = [](const Specials& self, const nb::bytes& text) {
        const Bytes bytes = bytes_of(text);
        nb::list parts;
        std::size_t begin = 0;
        while (const auto found = self.find(bytes, begin)) {
            if (found->begin > begin) parts.append(to_bytes(bytes.substr(begin, found->begin - begin)));
            parts.append(found->special->id);
            begin = found->begin + found->special->text.size();
        }
        if (begin < bytes.size()) parts.append(to_bytes(bytes.substr(begin)));
        return parts;
    };
    // Where the first one begins and ends, and its id.
    const auto find = [](const Specials& self, const nb::bytes& text, std::size_t from) {
        const auto found = self.find(bytes_of(text), from);
        return found ? std::optional(
                           std::tuple(found->begin, found->begin + found->special->text.size(), found->special->id))
                     : std::nullopt;
    };
    nb::class_<Specials>(m, "Specials")
        .def("__init__", make, "specials"_a, nb::sig("def __init__(self, specials: dict[str, int]) -> None"))
        .def("refuse", refuse, "text"_a)
        .def("find", find, "text"_a, "start"_a = 0)
        .def("split", split, "text"_a, nb::sig("def split(self, text: bytes) -> list[bytes | int]"));
}

void bind_ranks(nb::module_& m) {
    const auto make = [](Ranks* self, const nb::bytes& contents, Bytes where) {
        new (self) Ranks(bytes_of(contents), where);
    };
    const auto to_dict = [](const Ranks& self) {
        nb::dict out;
        for (const auto& [bytes, id] : self.tokens()) out[to_bytes(bytes)] = id;
        return out;
    };
    const auto merges = [](const Ranks& self) {
        nb::list out;
        for (const Merge& merge : self.merges()) out.append(nb::make_tuple(merge.left, merge.right, merge.count));
        return out;
    };
    const auto first_token = [](const Ranks& self, const std::vector<nb::bytes>& texts) -> std::optional<nb::bytes> {
        std::vector<Bytes> borrowed;
        for (const nb::bytes& text : texts) borrowed.push_back(bytes_of(text));
        const Bytes* found = self.first_token(borrowed);
        return found ? std::optional(to_bytes(*found)) : std::nullopt;
    };
    nb::class_<Ranks>(m, "Ranks")
        .def("__init__", make, "contents"_a, "where"_a,
             nb::sig("def __init__(self, contents: bytes, where: str) -> None"))
        .def("to_dict", to_dict, nb::sig("def to_dict(self) -> dict[bytes, int]"))
        .def("merges", merges, nb::sig("def merges(self) -> list[tuple[int, int, int]]"))
        .def("first_token", first_token, "texts"_a,
             nb::sig("def first_token(self, texts: collections.abc.Sequence[bytes]) -> bytes | None"))
        .def("__len__", [](const Ranks& self) { return self.tokens().size(); });
}

void bind_encoder(nb::module_& m) {
    const auto make = [](PythonEncoder* self, nb::handle tokens, Bytes pattern, std::size_t cache_mb,
                         const std::optional<MergePairs>& merges, bool ignore_merges) {
        if (const Ranks* ranks = nullptr; nb::try_cast(tokens, ranks) && ranks) {
            new (self) PythonEncoder(ranks->tokens(), MergeTable(ranks->tokens(), ranks->merges()), pattern, cache_mb);
            return;
        }
        const std::vector<Token> listed = tokens_of(nb::cast<nb::dict>(tokens));
        MergeTable table =
            merges ? MergeTable(order_by_list(listed, listed_merges(*merges)), ignore_merges) : MergeTable(listed);
        new (self) PythonEncoder(listed, std::move(table), pattern, cache_mb);
    };
    const auto unreachable = [](const PythonEncoder& self) {
        nb::list out;
        for (const Bytes token : self.core.unreachable()) out.append(to_bytes(token));
        return out;
    };
    nb::class_<PythonEncoder>(m, "Encoder")
        .def("__init__", make, "tokens"_a, "pattern"_a, "cache_mb"_a = 64, "merges"_a.none() = nb::none(),
             "ignore_merges"_a = false,
             nb::sig("def __init__(self, tokens: dict[bytes, int] | Ranks, pattern: str, cache_mb: int = 64, merges: "
                     "collections.abc.Sequence[tuple[int, int]] | None = None, ignore_merges: bool = False) -> None"))
        .def("encode", encode_to_list, "text"_a.none(), "allowed"_a.none() = nb::none(),
             "refused"_a.none() = nb::none(), nb::sig("def encode(self, text: " TEXT ", " RULES ") -> list[int]"))
        .def("encode_to_numpy", encode_to_numpy, "text"_a.none(), "allowed"_a.none() = nb::none(),
             "refused"_a.none() = nb::none(), nb::sig("def encode_to_numpy(self, text: " TEXT ", " RULES ") -> " IDS))
        .def("encode_stable", encode_stable, "text"_a.none(),
             nb::sig("def encode_stable(self, text: bytes) -> tuple[" IDS ", int]"))
        .def("encode_pretokens", encode_pretokens, "pretokens"_a.none(),
             nb::sig("def encode_pretokens(self, pretokens: " TEXTS ") -> " IDS))
        .def("encode_piece", encode_piece, "piece"_a, nb::sig("def encode_piece(self, piece: bytes) -> list[int]"))
        .def("encode_batch", encode_batch_to_lists, "texts"_a.none(), "threads"_a, "allowed"_a.none() = nb::none(),
             "refused"_a.none() = nb::none(),
             nb::sig("def encode_batch(self, texts: " TEXTS ", threads: int, " RULES ") -> list[list[int]]"))
        .def("encode_batch_to_numpy", encode_batch_to_numpy, "texts"_a.none(), "threads"_a,
             nb::sig("def encode_batch_to_numpy(self, texts: " TEXTS ", threads: int) -> tuple[" IDS
                     ", numpy.typing.NDArray[numpy.int64]]"))
        .def("count", count, "text"_a.none(), nb::sig("def count(self, text: " TEXT ") -> int"))
        .def("count_batch", count_batch, "texts"_a.none(), "threads"_a,
             nb::sig("def count_batch(self, texts: " TEXTS ", threads: int) -> list[int]"))
        .def("unreachable", unreachable, nb::sig("def unreachable(self) -> list[bytes]"))
        .def("clear_cache", [](const PythonEncoder& self) { self.core.clear_cache(); });
}

void bind_decoder(nb::module_& m) {
    const auto make = [](Decoder* self, nb::handle tokens, const nb::dict& more) {
        std::vector<Token> list = tokens_of(more);
        if (const Ranks* ranks = nullptr; nb::try_cast(tokens, ranks) && ranks) {
            list.insert(list.end(), ranks->tokens().begin(), ranks->tokens().end());
        } else {
            const std::vector<Token> others = tokens_of(nb::cast<nb::dict>(tokens));
            list.insert(list.end(), others.begin(), others.end());
        }
        new (self) Decoder(list);
    };
    const auto token = [](const Decoder& self, nb::handle id) { return to_bytes(self.token(id_of(id))); };
    nb::class_<Decoder>(m, "Decoder")
        .def("__init__", make, "tokens"_a, "more"_a = nb::dict(),
             nb::sig("def __init__(self, tokens: dict[bytes, int] | Ranks, more: dict[bytes, int] = {}) -> None"))
        .def("decode", decode_to_bytes, "ids"_a.none(),
             nb::sig("def decode(self, ids: collections.abc.Iterable[int] | numpy.typing.NDArray[numpy.integer]) -> "
                     "bytes"))
        .def("decode_to_str", decode_to_str, "ids"_a.none(), "errors"_a,
             nb::sig("def decode_to_str(self, ids: collections.abc.Iterable[int] | "
                     "numpy.typing.NDArray[numpy.integer], errors: str) -> str"))
        .def("token", token, "id"_a.none(), nb::sig("def token(self, id: int) -> bytes"))
        .def("id_count", &Decoder::id_count);
}

void bind_training(nb::module_& m) {
    const auto add = [](PretokenCounts& self, const nb::bytes& pretoken, Count times) {
        self.add(bytes_of(pretoken), times);
    };
    nb::class_<PretokenCounts>(m, "PretokenCounts")
        .def(nb::init<>())
        .def("add", add, "pretoken"_a, "times"_a = 1, nb::lock_self(),
             nb::sig("def add(self, pretoken: bytes, times: int = 1) -> None"))
        .def("add_text", count_text, "pattern"_a, "text"_a, nb::lock_self(),
             nb::sig("def add_text(self, pattern: str, text: str | bytes) -> None"))
        .def("add_stable", count_stable, "pattern"_a, "text"_a, "threads"_a = 1, nb::lock_self())
        .def("add_texts", count_texts, "pattern"_a, "texts"_a.none(), "threads"_a, "progress"_a = nb::none(),
             nb::lock_self(),
             nb::sig("def add_texts(self, pattern: str, texts: collections.abc.Sequence[" TEXT
                     "], threads: int, progress: collections.abc.Callable[[int], object] | None = None) -> int"))
        .def("merge", nb::overload_cast<const PretokenCounts&>(&PretokenCounts::merge), "other"_a.lock(),
             nb::lock_self())
        .def("items", count_items, nb::lock_self(), nb::sig("def items(self) -> list[tuple[bytes, int]]"))
        .def("to_arrays", counts_to_arrays, nb::lock_self(),
             nb::sig(
                 "def to_arrays(self) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.int64], "
                 "numpy.typing.NDArray[numpy.int64]]"))
        .def("add_arrays", add_arrays, "pretokens"_a, "sizes"_a, "counts"_a, nb::lock_self(),
             nb::sig("def add_arrays(self, pretokens: numpy.typing.NDArray[numpy.uint8], "
                     "sizes: numpy.typing.NDArray[numpy.int64], counts: numpy.typing.NDArray[numpy.int64]) -> None"))
        .def_prop_ro("total", &PretokenCounts::total)
        .def_prop_ro("distinct_bytes", &PretokenCounts::distinct_bytes)
        .def("__len__", &PretokenCounts::size);
    nb::class_<Trained>(m, "Trained")
        .def_prop_ro("ranks", [](const Trained& self) -> const Ranks& { return self.ranks; })
        .def_ro("tokens", &Trained::tokens);
    m.def(
        "train", train_ranks, "counts"_a.lock(), "tokens"_a, "next_id"_a, "merges"_a, "min_count"_a = 1,
        "max_token_bytes"_a = std::numeric_limits<std::size_t>::max(), "tie_break"_a = "smallest",
        "encoder"_a.none() = nb::none(), "may_make"_a.none() = nb::none(),
        "memory_limit"_a = std::numeric_limits<std::size_t>::max(), "progress"_a.none() = nb::none(),
        nb::sig("def train(counts: PretokenCounts, tokens: collections.abc.Sequence[tuple[bytes, int]], next_id: int, "
                "merges: int, min_count: int = 1, max_token_bytes: int = ..., tie_break: str = 'smallest', "
                "encoder: Encoder | None = None, may_make: collections.abc.Callable[[bytes], bool] | None = None, "
                "memory_limit: int = ..., "
                "progress: collections.abc.Callable[[int], object] | None = None) -> Trained"));
}

}  // namespace
}  // namespace bpetok

NB_MODULE(_core, m) {
    using namespace bpetok;
    nb::set_leak_warnings(false);  // what others keep until the end is no concern of the user
    bind_errors();
    bind_specials(m);
    bind_ranks(m);
    bind_encoder(m);
    bind_decoder(m);
    bind_training(m);
    m.def(
        "pretoken_ends",
        [](Bytes pattern, nb::handle text) {
            const OneText one(text);
            std::string narrowed;
            return to_numpy(pretoken_ends(pattern_named(pattern), narrow(one.text, narrowed).bytes()));
        },
        "pattern"_a, "text"_a,
        nb::sig("def pretoken_ends(pattern: str, text: str | bytes) -> numpy.typing.NDArray[numpy.int64]"));
    bind_documents(m);
    m.def("char_class", char_class, "code_point"_a);
    m.def("ordered_merges", ordered_merges, "tokens"_a, "merges"_a,
          nb::sig("def ordered_merges(tokens: dict[bytes, int], merges: collections.abc.Sequence[tuple[int, int]]) -> "
                  "list[tuple[int, int]]"));
    m.def("tiers", [] {
        std::vector<std::string> names;
        for (const Tier& tier : tiers()) names.emplace_back(tier.name);
        return names;
    });
    m.def("tier_in_use", [] { return std::string(tier_in_use().name); });
    m.def("use_tier", use_tier, "name"_a);
    m.attr("unicode_version") = kUnicodeVersion;
    m.attr("version") = BPETOK_VERSION;
}
