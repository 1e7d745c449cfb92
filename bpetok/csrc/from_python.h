// from_python.h: what Python hands over: texts and ids. For bindings.cpp alone.
#pragma once

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <span>
#include <vector>

#include "pair_table.h"
#include "text.h"
#include "to_python.h"

namespace bpetok {
namespace {

template <class T>
using ReadOnlyArray = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using NoGil = nb::gil_scoped_release;

// Less text than this is encoded faster than the GIL is given away and taken again.
constexpr std::size_t kShortText = 4096;

// Releases the GIL if the work is long.
class NoGilIf {
  public:
    explicit NoGilIf(bool release) {
        if (release) released_.emplace();
    }

  private:
    std::optional<NoGil> released_;
};

// Borrowed from the object, which the caller keeps.
Text text_of(nb::handle text) {
    if (PyUnicode_Check(text.ptr())) {
        const auto size = static_cast<std::size_t>(PyUnicode_GET_LENGTH(text.ptr()));
        const void* data = PyUnicode_DATA(text.ptr());
        if (PyUnicode_IS_ASCII(text.ptr())) return Text(Text::Kind::valid_utf8, data, size);
        switch (PyUnicode_KIND(text.ptr())) {
            case PyUnicode_1BYTE_KIND: return Text(Text::Kind::points1, data, size);
            case PyUnicode_2BYTE_KIND: return Text(Text::Kind::points2, data, size);
            default: return Text(Text::Kind::points4, data, size);
        }
    }
    if (PyBytes_Check(text.ptr()))
        return Text(Text::Kind::bytes, PyBytes_AS_STRING(text.ptr()),
                    static_cast<std::size_t>(PyBytes_GET_SIZE(text.ptr())));
    const std::string got = Py_TYPE(text.ptr())->tp_name;
    throw nb::type_error(("text must be str or bytes, got " + got).c_str());
}

// One text, and its copy where it could change.
struct OneText {
    explicit OneText(nb::handle object) {
        if (PyByteArray_Check(object.ptr()) || PyMemoryView_Check(object.ptr())) {
            copy = checked(PyBytes_FromObject(object.ptr()));
            object = copy;
        }
        text = text_of(object);
    }

    nb::object copy;
    Text text;
};

Bytes bytes_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

// Texts, and what keeps them alive while the GIL is away.
struct Texts {
    explicit Texts(nb::handle sequence) : kept(checked(PySequence_Tuple(sequence.ptr()))) {
        const auto n = PyTuple_GET_SIZE(kept.ptr());
        texts.reserve(static_cast<std::size_t>(n));
        for (Py_ssize_t i = 0; i < n; ++i) {
            nb::handle text = PyTuple_GET_ITEM(kept.ptr(), i);
            if (PyByteArray_Check(text.ptr()) || PyMemoryView_Check(text.ptr()))
                text = copies.emplace_back(checked(PyBytes_FromObject(text.ptr())));
            texts.push_back(text_of(text));
        }
    }

    nb::object kept;
    std::vector<nb::object> copies;
    std::vector<Text> texts;
};

Id id_of(nb::handle number) {
    const nb::object index = checked(PyNumber_Index(number.ptr()));
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (value == -1 && PyErr_Occurred()) throw nb::python_error();
    if (overflow != 0 || value < 0 || value > static_cast<long long>(kNoId))
        throw IdRangeError("decode: an id must be in 0 to 4294967295, got " + std::string(nb::str(index).c_str()));
    return static_cast<Id>(value);
}

// Ids from Python, borrowed where they lie in an array of uint32.
class Ids {
  public:
    explicit Ids(nb::handle ids) {
        if (nb::ndarray_check(ids)) {
            if (nb::try_cast(ids, array_, false)) {
                view_ = {array_.data(), array_.size()};
                return;
            }
            if (ReadOnlyArray<std::uint16_t> narrow; nb::try_cast(ids, narrow, false)) {
                copy_.assign(narrow.data(), narrow.data() + narrow.size());
                view_ = copy_;
                return;
            }
        }
        if (PyList_CheckExact(ids.ptr())) {
            const nb::ft_object_guard alone(ids);  // for a Python without the GIL
            add_list(ids.ptr());
        } else {
            for (nb::handle number : ids) add(number);
        }
        view_ = copy_;
    }
    Ids(const Ids&) = delete;
    Ids& operator=(const Ids&) = delete;

    std::span<const Id> view() const { return view_; }

  private:
    void add_list(PyObject* list) {
        const Py_ssize_t size = PyList_GET_SIZE(list);
        copy_.resize(static_cast<std::size_t>(size));
        Py_ssize_t plain = 0;  // so many are plain integers
        for (; plain < size; ++plain) {
            const Py_ssize_t value = small_value(PyList_GET_ITEM(list, plain));
            if (value < 0 || value > static_cast<Py_ssize_t>(kMaxId)) break;
            copy_[static_cast<std::size_t>(plain)] = static_cast<Id>(value);
        }
        copy_.resize(static_cast<std::size_t>(plain));
        // What others do to become integers may change the list.
        for (; plain < PyList_GET_SIZE(list); ++plain) add(nb::borrow(PyList_GET_ITEM(list, plain)));
    }

    void add(nb::handle number) {
        const Py_ssize_t value = small_value(number.ptr());
        copy_.push_back(value >= 0 && value <= static_cast<Py_ssize_t>(kMaxId) ? static_cast<Id>(value)
                                                                               : id_of(number));
    }

    // The value of a Python integer that is small, -1 of anything else; without a function call.
    static Py_ssize_t small_value(PyObject* number) {
        if (!PyLong_CheckExact(number)) return -1;
#if PY_VERSION_HEX >= 0x030C0000
        const auto* integer = reinterpret_cast<PyLongObject*>(number);
        return PyUnstable_Long_IsCompact(integer) ? PyUnstable_Long_CompactValue(integer) : -1;
#else
        const Py_ssize_t digits = Py_SIZE(number);
        if (digits != 1) return digits == 0 ? 0 : -1;
        return static_cast<Py_ssize_t>(reinterpret_cast<PyLongObject*>(number)->ob_digit[0]);
#endif
    }

    ReadOnlyArray<Id> array_;
    std::vector<Id> copy_;
    std::span<const Id> view_;
};

}  // namespace
}  // namespace bpetok
