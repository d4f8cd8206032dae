// What a function of the module was called with.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <cstring>

namespace modelmill::kernels {

// Reads the arguments one after the other; after one that is no number the rest are 0.
class Arguments {
public:
    Arguments(PyObject* const* values, Py_ssize_t count) : values_(values), end_(values + count) {}
    int64_t whole() {
        if (values_ == end_) return failed("too few arguments");
        const int64_t value = PyLong_AsLongLong(*values_++);
        bad_ = bad_ || (value == -1 && PyErr_Occurred());
        return bad_ ? 0 : value;
    }
    template <typename Value>
    Value* pointer() {
        return reinterpret_cast<Value*>(static_cast<uintptr_t>(whole()));
    }
    float number() {
        if (values_ == end_) return static_cast<float>(failed("too few arguments"));
        const double value = PyFloat_AsDouble(*values_++);
        bad_ = bad_ || (value == -1 && PyErr_Occurred());
        return bad_ ? 0 : static_cast<float>(value);
    }
    bool good() {
        if (!bad_ && values_ != end_) failed("too many arguments");
        return !bad_;
    }

private:
    int64_t failed(const char* message) {
        if (!bad_) PyErr_SetString(PyExc_TypeError, message);
        bad_ = true;
        return 0;
    }
    PyObject *const *values_, *const *end_;
    bool bad_ = false;
};

}  // namespace modelmill::kernels
