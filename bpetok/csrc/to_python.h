// to_python.h: what Python gets back: lists, arrays, bytes. For bindings.cpp alone.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_1_25_API_VERSION
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <algorithm>
#include <memory>

#include "encode.h"

namespace nb = nanobind;

namespace bpetok {
namespace {

// What a function of Python's C interface gave. Throws what it raised.
nb::object checked(PyObject* object) {
    if (!object) throw nb::python_error();
    return nb::steal(object);
}

// numpy's C functions are there after the first call, so that importing this module does not import numpy.
void load_numpy() {
    if (!PyArray_API && _import_array() < 0) throw nb::python_error();
}

template <class T>
constexpr int kNumpyType = sizeof(T) == 1   ? NPY_UINT8
                           : sizeof(T) == 4 ? NPY_UINT32
                                            : NPY_INT64;

void done_with(std::unique_ptr<IdBuffer> ids) { recycle(std::move(*ids)); }

template <class Owner>
void done_with(std::unique_ptr<Owner>) {}

// An array that takes over the memory that `owner` holds.
template <class T, class Owner>
nb::object to_numpy(T* data, std::size_t size, std::unique_ptr<Owner> owner) {
    load_numpy();
    npy_intp shape = static_cast<npy_intp>(size);
    nb::object array = checked(PyArray_SimpleNewFromData(1, &shape, kNumpyType<T>, data));
    nb::capsule base(owner.get(), [](void* p) noexcept { done_with(std::unique_ptr<Owner>(static_cast<Owner*>(p))); });
    owner.release();
    if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.ptr()), base.release().ptr()) < 0)
        throw nb::python_error();
    return array;
}

template <class T>
nb::object to_numpy(std::vector<T>&& values) {
    auto owner = std::make_unique<std::vector<T>>(std::move(values));
    T* data = owner->data();
    const std::size_t size = owner->size();
    return to_numpy(data, size, std::move(owner));
}

// Few ids are copied, of many the buffer is taken.
nb::object to_numpy(IdBuffer& ids) {
    constexpr std::size_t kFew = 1024;
    if (ids.size() > kFew) {
        auto owner = std::make_unique<IdBuffer>(std::move(ids));
        Id* data = owner->data();
        const std::size_t size = owner->size();
        return to_numpy(data, size, std::move(owner));
    }
    load_numpy();
    npy_intp shape = static_cast<npy_intp>(ids.size());
    nb::object array = checked(PyArray_SimpleNew(1, &shape, NPY_UINT32));
    if (ids.size() > 0)
        std::memcpy(PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.ptr())), ids.data(), ids.size() * sizeof(Id));
    return array;
}

// Keeps Python's collector of cycles from walking through many new lists again and again while they are made. From
// Python 3.12 on it waits by itself until the call is over.
class NoCollection {
  public:
    NoCollection() = default;
    NoCollection(const NoCollection&) = delete;
    NoCollection& operator=(const NoCollection&) = delete;
#if PY_VERSION_HEX < 0x030C0000
    ~NoCollection() {
        if (was_on_) PyGC_Enable();
    }

  private:
    int was_on_ = PyGC_Disable();
#else
    ~NoCollection() {}
#endif
};

nb::bytes to_bytes(Bytes bytes) { return nb::bytes(bytes.data(), bytes.size()); }

// Python's integers for ids, each made once: giving one away again is cheaper than making it.
class Integers {
  public:
    Integers() = default;
    Integers(const Integers&) = delete;
    Integers& operator=(const Integers&) = delete;
    ~Integers() {
        for (PyObject* integer : made_) Py_XDECREF(integer);
    }

    nb::object list(const Id* ids, std::size_t n) {
        nb::object list = checked(PyList_New(static_cast<Py_ssize_t>(n)));
        for (std::size_t i = 0; i < n; ++i) PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), get(ids[i]));
        return list;
    }

  private:
    PyObject* get(Id id) {
#if !defined(Py_GIL_DISABLED)  // without the GIL the table would need a lock
        if (id >= made_.size()) made_.resize(std::max<std::size_t>(id + 1, made_.size() * 2));
        if (!made_[id]) made_[id] = make(id);
        Py_INCREF(made_[id]);
        return made_[id];
#else
        return make(id);
#endif
    }

    static PyObject* make(Id id) { return checked(PyLong_FromUnsignedLong(id)).release().ptr(); }

    std::vector<PyObject*> made_;
};

}  // namespace
}  // namespace bpetok
