// What fills batches with requests (Gate), as Python sees it: see _fastpath.pyi.
#pragma once

#include "python.hpp"

#include <memory>
#include <string>
#include <vector>

#include "batch.hpp"
#include "heads.hpp"

namespace modelmill {
namespace {

struct GateContent {
    std::shared_ptr<const Plan> plan;
    std::unique_ptr<View> scratch;
    Ref opened;
    Heads heads;
    Ref open;  // the batch that is being filled
    std::vector<Ref> full;
    long room = 0;  // how many more requests may wait
};
using Gate = Object<GateContent>;

PyObject* gate_new(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
    static const char* names[] = {"inputs", "outputs", "opening", "rows", "message_bytes",
                                  "bounds", "scratch", "opened",  nullptr};
    PyObject *inputs, *outputs, *bounds, *scratch, *opened;
    const char* opening;
    Py_ssize_t rows, bytes;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$O!O!snnO!OO", const_cast<char**>(names), &PyList_Type, &inputs,
                                     &PyList_Type, &outputs, &opening, &rows, &bytes, &PyTuple_Type, &bounds, &scratch, &opened))
        return nullptr;
    auto plan = std::make_shared<Plan>();
    plan->answers.opening = opening;
    plan->rows = static_cast<std::size_t>(rows);
    plan->message_bytes = static_cast<std::size_t>(bytes);
    if (!parse_inputs(inputs, *plan) || !parse_outputs(outputs, *plan)) return nullptr;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bounds); ++i)
        plan->bounds.push_back(PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, i)));
    auto view = std::make_unique<View>();
    if (PyErr_Occurred() || !view->open(scratch, PyBUF_SIMPLE)) return nullptr;
    Ref self(reinterpret_cast<PyObject*>(Gate::make(type)));
    if (!self) return nullptr;
    auto& gate = Gate::of(self.get());
    gate.plan = std::move(plan);
    gate.scratch = std::move(view);
    gate.opened = Ref::to(opened);
    return self.give();
}

// False with an exception, or without one where no request may wait now.
bool open_batch(GateContent& gate) {
    std::size_t waiting = 0;
    for (const auto& each : gate.full) waiting += Batch::of(each.get()).slots.size();
    Ref answer(PyObject_CallNoArgs(gate.opened.get()));
    if (!answer) return false;
    gate.room = PyLong_AsLong(answer.get()) - static_cast<long>(waiting);
    if (gate.room <= 0) return false;
    gate.open = make_batch(gate.plan, gate.plan->rows);
    return static_cast<bool>(gate.open);
}

bool read_body(GateContent& gate, std::string_view body, Found& found) {
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (!gate.open && !open_batch(gate)) return false;
        auto& batch = Batch::of(gate.open.get());
        if (gate.room <= static_cast<long>(batch.slots.size())) return false;
        found = Found();
        if (Reader(gate.plan->inputs, places(batch), gate.plan->rows - batch.rows)(body, found)) return true;
        if (!found.overflow || batch.slots.empty()) return false;
        gate.full.push_back(std::move(gate.open));
    }
    return false;
}

// take(owner, nbytes) -> Slot, or None of what is not the usual request or may not wait now
PyObject* gate_take(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 2) return PyErr_SetString(PyExc_TypeError, "take(owner, nbytes)"), nullptr;
    auto& gate = Gate::of(self);
    const Py_ssize_t size = PyLong_AsSsize_t(arguments[1]);
    if (size < 0 || size > (*gate.scratch)->len)
        return PyErr_Occurred() ? nullptr : (PyErr_SetString(PyExc_ValueError, "nbytes"), nullptr);
    const std::string_view message(static_cast<const char*>((*gate.scratch)->buf), static_cast<std::size_t>(size));
    Head head;
    if (message.size() > gate.plan->message_bytes || !take_apart(message, head) || head.size + head.length != message.size())
        Py_RETURN_NONE;
    const std::string* path = gate.heads.find(head);
    if (!path) Py_RETURN_NONE;
    const double began = now();
    Found found;
    if (!read_body(gate, message.substr(head.size), found)) {
        if (PyErr_Occurred()) return nullptr;
        Py_RETURN_NONE;
    }
    Ref made(reinterpret_cast<PyObject*>(Slot::make(slot_type)));
    if (!made) return nullptr;
    auto& batch = Batch::of(gate.open.get());
    auto& slot = Slot::of(made.get());
    slot.owner = Ref::to(arguments[0]);
    slot.began = began;
    slot.first = batch.rows;
    slot.rows = found.rows;
    slot.received = head.length;
    slot.id = found.id;
    if (batch.slots.empty()) batch.path = *path;
    batch.rows += found.rows;
    batch.slots.push_back(Ref::to(made.get()));
    if (batch.rows == gate.plan->rows) gate.full.push_back(std::move(gate.open));
    return made.give();
}

// seal() -> the batches that were filled since
PyObject* gate_seal(PyObject* self, PyObject*) {
    auto& gate = Gate::of(self);
    if (gate.open && !Batch::of(gate.open.get()).slots.empty()) gate.full.push_back(std::move(gate.open));
    gate.open = Ref();
    Ref all(PyList_New(static_cast<Py_ssize_t>(gate.full.size())));
    if (!all) return nullptr;
    for (std::size_t i = 0; i < gate.full.size(); ++i)
        PyList_SET_ITEM(all.get(), static_cast<Py_ssize_t>(i), gate.full[i].give());
    gate.full.clear();
    return all.give();
}

// learn(message, path): the message's head means the usual request at this path
PyObject* gate_learn(PyObject* self, PyObject* arguments) {
    const char *message, *path;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "y#s", &message, &size, &path)) return nullptr;
    Head head;
    if (take_apart({message, static_cast<std::size_t>(size)}, head)) Gate::of(self).heads.learn(head, path);
    Py_RETURN_NONE;
}

PyObject* gate_forget(PyObject* self, PyObject*) {
    Gate::of(self).heads.clear();
    Py_RETURN_NONE;
}

int gate_traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(Gate::of(self).opened.get());
    return 0;
}

int gate_clear(PyObject* self) {
    Gate::of(self).opened = Ref();
    return 0;
}

}  // namespace
}  // namespace modelmill
