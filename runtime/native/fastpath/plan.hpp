// What never changes while a model is served, read from what Python says of it.
#pragma once

#include "python.hpp"

#include <chrono>
#include <vector>

#include "answer.hpp"
#include "request.hpp"

namespace modelmill {

// On Linux CLOCK_MONOTONIC, as time.perf_counter() and time.monotonic() do.
inline double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Plan {
    std::vector<Input> inputs;
    Answers answers;
    std::vector<double> bounds;  // of the histogram of seconds
    std::size_t rows = 0;        // at most in a batch
    std::size_t message_bytes = 0;
};

// Both return false with an exception set.
inline bool parse_inputs(PyObject* list, Plan& plan) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
        const char *name, *datatype;
        PyObject* inner;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "ssO!", &name, &datatype, &PyTuple_Type, &inner)) return false;
        const Datatype* type = datatype_of(datatype);
        if (!type) return PyErr_Format(PyExc_ValueError, "no fast path for %s", datatype), false;
        Input input{name, datatype, type->kind, type->size, {}, 1};
        for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(inner); ++k) {
            const long long size = PyLong_AsLongLong(PyTuple_GET_ITEM(inner, k));
            if (size < 1) return PyErr_Occurred() || PyErr_Format(PyExc_ValueError, "%s: sizes must be known", name), false;
            input.inner.push_back(size);
            input.elements *= static_cast<std::size_t>(size);
        }
        plan.inputs.push_back(std::move(input));
    }
    if (plan.inputs.empty()) return PyErr_SetString(PyExc_ValueError, "no inputs"), false;
    return true;
}

inline bool parse_outputs(PyObject* list, Plan& plan) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
        const char *opening, *datatype;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "ss", &opening, &datatype)) return false;
        const Datatype* type = datatype_of(datatype);
        if (!type) return PyErr_Format(PyExc_ValueError, "no fast path for %s", datatype), false;
        plan.answers.outputs.push_back({opening, type->kind, type->size, type->code});
    }
    return true;
}

}  // namespace modelmill
