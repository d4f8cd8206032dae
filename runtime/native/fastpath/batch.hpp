// One request (Slot) and those that run together (Batch), as Python sees them: see _fastpath.pyi.
#pragma once

#include "python.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "plan.hpp"

namespace modelmill {
namespace {

PyTypeObject *slot_type, *batch_type;

struct SlotContent {
    Ref owner;  // whose request it is; nothing once that went away
    double began = 0;
    std::size_t first = 0, rows = 0, received = 0;
    std::string id;
};
using Slot = Object<SlotContent>;

PyObject* slot_cancel(PyObject* self, PyObject*) {
    Slot::of(self).owner = Ref();
    Py_RETURN_NONE;
}

struct BatchContent {
    std::shared_ptr<const Plan> plan;
    std::vector<Ref> memory;  // a bytearray for each input
    std::vector<Ref> slots;
    std::size_t rows = 0;
    std::string path;  // of the first request
};
using Batch = Object<BatchContent>;

Ref make_batch(const std::shared_ptr<const Plan>& plan, std::size_t rows) {
    Ref made(reinterpret_cast<PyObject*>(Batch::make(batch_type)));
    if (!made) return made;
    auto& batch = Batch::of(made.get());
    batch.plan = plan;
    for (const auto& input : plan->inputs) {
        batch.memory.emplace_back(
            PyByteArray_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(rows * input.elements * input.size)));
        if (!batch.memory.back()) return Ref();
    }
    return made;
}

std::vector<char*> places(const BatchContent& batch) {
    std::vector<char*> found;
    for (std::size_t i = 0; i < batch.memory.size(); ++i) {
        const Input& input = batch.plan->inputs[i];
        found.push_back(PyByteArray_AS_STRING(batch.memory[i].get()) + batch.rows * input.elements * input.size);
    }
    return found;
}

PyObject* batch_inputs(PyObject* self, void*) {
    const auto& batch = Batch::of(self);
    Ref all(PyTuple_New(static_cast<Py_ssize_t>(batch.memory.size())));
    if (!all) return nullptr;
    for (std::size_t i = 0; i < batch.memory.size(); ++i)
        PyTuple_SET_ITEM(all.get(), static_cast<Py_ssize_t>(i), Py_NewRef(batch.memory[i].get()));
    return all.give();
}

PyObject* batch_rows(PyObject* self, void*) { return PyLong_FromSize_t(Batch::of(self).rows); }
PyObject* batch_requests(PyObject* self, void*) { return PyLong_FromSize_t(Batch::of(self).slots.size()); }
PyObject* batch_path(PyObject* self, void*) { return PyUnicode_FromString(Batch::of(self).path.c_str()); }
PyObject* batch_began(PyObject* self, void*) {
    const auto& slots = Batch::of(self).slots;
    return PyFloat_FromDouble(slots.empty() ? 0 : Slot::of(slots[0].get()).began);
}

bool take_values(PyObject* arrays, const BatchContent& batch, std::vector<View>& views, std::vector<Values>& values) {
    const auto& outputs = batch.plan->answers.outputs;
    if (!PyList_Check(arrays) || static_cast<std::size_t>(PyList_GET_SIZE(arrays)) != outputs.size()) {
        PyErr_Format(PyExc_ValueError, "expected a list of %zu arrays", outputs.size());
        return false;
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        View& view = views[i];
        if (!view.open(PyList_GET_ITEM(arrays, static_cast<Py_ssize_t>(i)), PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return false;
        if (view->ndim < 1 || static_cast<std::size_t>(view->shape[0]) != batch.rows || view->format[0] != outputs[i].code ||
            static_cast<std::size_t>(view->itemsize) != outputs[i].size) {
            PyErr_Format(PyExc_ValueError, "output %zu: expected %zu rows of the format %c", i, batch.rows, outputs[i].code);
            return false;
        }
        Values one{static_cast<const char*>(view->buf), {}, 1};
        for (int axis = 1; axis < view->ndim; ++axis) {
            one.inner.push_back(view->shape[axis]);
            one.elements *= static_cast<std::size_t>(view->shape[axis]);
        }
        values.push_back(std::move(one));
    }
    return true;
}

// answer(arrays) -> ([(owner, message)], counts by seconds, sum of seconds, bytes received, bytes sent)
PyObject* batch_answer(PyObject* self, PyObject* arrays) {
    const auto& batch = Batch::of(self);
    const Plan& plan = *batch.plan;
    std::vector<View> views(plan.answers.outputs.size());
    std::vector<Values> values;
    if (!take_values(arrays, batch, views, values)) return nullptr;
    std::vector<long> counts(plan.bounds.size() + 1);
    const double moment = now();
    double seconds = 0;
    std::size_t received = 0, sent = 0;
    Ref answers(PyList_New(0));
    if (!answers) return nullptr;
    std::string body;
    for (const auto& each : batch.slots) {
        auto& slot = Slot::of(each.get());
        if (!slot.owner) continue;
        body.clear();
        plan.answers.body(body, slot.id, slot.first, slot.rows, values);
        const std::string head = Answers::head(body.size());
        Ref message(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(head.size() + body.size())));
        if (!message) return nullptr;
        std::memcpy(PyBytes_AS_STRING(message.get()), head.data(), head.size());
        std::memcpy(PyBytes_AS_STRING(message.get()) + head.size(), body.data(), body.size());
        const double took = moment - slot.began;
        ++counts[static_cast<std::size_t>(std::lower_bound(plan.bounds.begin(), plan.bounds.end(), took) - plan.bounds.begin())];
        seconds += took;
        received += slot.received;
        sent += body.size();
        Ref pair(PyTuple_Pack(2, slot.owner.get(), message.get()));
        if (!pair || PyList_Append(answers.get(), pair.get()) < 0) return nullptr;
    }
    Ref all(PyTuple_New(static_cast<Py_ssize_t>(counts.size())));
    if (!all) return nullptr;
    for (std::size_t i = 0; i < counts.size(); ++i)
        PyTuple_SET_ITEM(all.get(), static_cast<Py_ssize_t>(i), PyLong_FromLong(counts[i]));
    return Py_BuildValue("(NNdnn)", answers.give(), all.give(), seconds, static_cast<Py_ssize_t>(received),
                         static_cast<Py_ssize_t>(sent));
}

// owners() -> [(owner, began, bytes received)] of those who still wait
PyObject* batch_owners(PyObject* self, PyObject*) {
    Ref all(PyList_New(0));
    if (!all) return nullptr;
    for (const auto& each : Batch::of(self).slots) {
        const auto& slot = Slot::of(each.get());
        if (!slot.owner) continue;
        Ref one(Py_BuildValue("(Odn)", slot.owner.get(), slot.began, static_cast<Py_ssize_t>(slot.received)));
        if (!one || PyList_Append(all.get(), one.get()) < 0) return nullptr;
    }
    return all.give();
}

// split() -> a batch for each request that still waits
PyObject* batch_split(PyObject* self, PyObject*) {
    const auto& batch = Batch::of(self);
    Ref all(PyList_New(0));
    if (!all) return nullptr;
    for (const auto& each : batch.slots) {
        auto& slot = Slot::of(each.get());
        if (!slot.owner) continue;
        Ref made = make_batch(batch.plan, slot.rows);
        if (!made) return nullptr;
        auto& alone = Batch::of(made.get());
        for (std::size_t i = 0; i < batch.memory.size(); ++i) {
            const std::size_t row = batch.plan->inputs[i].elements * batch.plan->inputs[i].size;
            std::memcpy(PyByteArray_AS_STRING(alone.memory[i].get()),
                        PyByteArray_AS_STRING(batch.memory[i].get()) + slot.first * row, slot.rows * row);
        }
        slot.first = 0;
        alone.rows = slot.rows;
        alone.path = batch.path;
        alone.slots.push_back(Ref::to(each.get()));
        if (PyList_Append(all.get(), made.get()) < 0) return nullptr;
    }
    return all.give();
}

}  // namespace
}  // namespace modelmill
