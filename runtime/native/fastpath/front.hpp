// The receiving end of an HTTP/2 connection (Front), and how answers become frames, as Python sees them: see _fastpath.pyi.
#pragma once

#include "python.hpp"

#include <structmember.h>

#include <cstring>
#include <memory>

#include "frames.hpp"

namespace modelmill {
namespace {

struct FrontContent {
    Ref scratch, known, write;
    std::unique_ptr<View> memory;
    char between = 0;
    int pings = 0;
};
using Front = Object<FrontContent>;

PyObject *name_request, *name_received;

PyObject* front_new(PyTypeObject* type, PyObject*, PyObject*) { return reinterpret_cast<PyObject*>(Front::make(type)); }

// listen(scratch, known)
PyObject* front_listen(PyObject* self, PyObject* arguments) {
    PyObject *scratch, *known;
    auto memory = std::make_unique<View>();
    if (!PyArg_ParseTuple(arguments, "OO!", &scratch, &PyDict_Type, &known) || !memory->open(scratch, PyBUF_SIMPLE))
        return nullptr;
    auto& front = Front::of(self);
    front.scratch = Ref::to(scratch);
    front.known = Ref::to(known);
    front.memory = std::move(memory);
    Py_RETURN_NONE;
}

PyObject* front_answer_by(PyObject* self, PyObject* write) {
    Front::of(self).write = Ref::to(write);
    Py_RETURN_NONE;
}

PyObject* front_get_buffer(PyObject* self, PyObject*) {
    auto& front = Front::of(self);
    if (!front.scratch) return PyErr_SetString(PyExc_RuntimeError, "`listen` comes first"), nullptr;
    return Py_NewRef(front.scratch.get());
}

bool is_ping(std::string_view data) {
    return data.size() == PING_BYTES && FrameHead::at(data.data()) == FrameHead{8, PING, 0, 0};
}

PyObject* answer_ping(FrontContent& front, std::string_view ping) {
    char pong[PING_BYTES];
    ping.substr(HEAD_BYTES).copy(FrameHead{8, PING, ACK, 0}.write(pong), 8);
    Ref content(PyBytes_FromStringAndSize(pong, sizeof pong));
    return content ? PyObject_CallOneArg(front.write.get(), content.get()) : nullptr;
}

// How much of `data` from `at` on was a usual request that was taken; 0: none, or there is an exception.
std::size_t take_request(PyObject* self, FrontContent& front, std::string_view data, std::size_t at) {
    Usual found;
    if (!take_usual(data.substr(at), found)) return 0;
    Ref block(PyBytes_FromStringAndSize(found.block.data(), static_cast<Py_ssize_t>(found.block.size())));
    if (!block) return 0;
    Ref headers = Ref::to(PyDict_GetItemWithError(front.known.get(), block.get()));
    if (!headers || headers.get() == Py_None) return 0;
    const Ref numbers[] = {Ref(PyLong_FromUnsignedLong(found.stream)), Ref(PyLong_FromUnsignedLong(found.window)),
                           Ref(PyLong_FromUnsignedLong(found.credit)), Ref(PyLong_FromSsize_t(found.body.data() - data.data())),
                           Ref(PyLong_FromSize_t(found.body.size()))};
    PyObject* arguments[] = {
        self, headers.get(), numbers[0].get(), numbers[1].get(), numbers[2].get(), numbers[3].get(), numbers[4].get()};
    for (PyObject* each : arguments)
        if (!each) return 0;
    Ref taken(PyObject_VectorcallMethod(name_request, arguments, std::size(arguments), nullptr));
    return taken.get() == Py_True ? found.end : 0;
}

PyObject* front_buffer_updated(PyObject* self, PyObject* argument) {
    auto& front = Front::of(self);
    const Py_ssize_t size = PyLong_AsSsize_t(argument);
    if (size < 0 || !front.memory || size > (*front.memory)->len)
        return PyErr_Occurred() ? nullptr : (PyErr_SetString(PyExc_ValueError, "nbytes"), nullptr);
    const std::string_view data(static_cast<const char*>((*front.memory)->buf), static_cast<std::size_t>(size));
    if (front.between && front.write && front.pings > 0 && is_ping(data)) {
        --front.pings;
        return answer_ping(front, data);
    }
    std::size_t at = 0;
    while (front.between && at < data.size()) {
        const std::size_t taken = take_request(self, front, data, at);
        if (PyErr_Occurred()) return nullptr;
        if (!taken) break;
        at += taken;
    }
    if (at == data.size()) Py_RETURN_NONE;
    Ref begin(PyLong_FromSize_t(at));
    PyObject* arguments[] = {self, begin.get(), argument};
    return begin ? PyObject_VectorcallMethod(name_received, arguments, std::size(arguments), nullptr) : nullptr;
}

int front_traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(Front::of(self).known.get());
    Py_VISIT(Front::of(self).write.get());
    return 0;
}

int front_clear(PyObject* self) {
    Front::of(self).write = Ref();
    return 0;
}

// frames(stream, headers, data, size, last, trailers) -> an answer's frames in one piece
PyObject* frames(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 6 || !PySequence_Check(arguments[2]))
        return PyErr_SetString(PyExc_TypeError, "frames(stream, headers, data, size, last, trailers)"), nullptr;
    const auto stream = static_cast<std::uint32_t>(PyLong_AsUnsignedLong(arguments[0]));
    const Py_ssize_t size = PyLong_AsSsize_t(arguments[3]);
    const int last = PyObject_IsTrue(arguments[4]);
    View headers, trailers;
    const bool begins = arguments[1] != Py_None, ends = arguments[5] != Py_None, some = size > 0 || last > 0;
    if (PyErr_Occurred() || (begins && !headers.open(arguments[1], PyBUF_SIMPLE)) ||
        (ends && !trailers.open(arguments[5], PyBUF_SIMPLE)))
        return nullptr;
    const Py_ssize_t heads = (begins + some + ends) * static_cast<Py_ssize_t>(HEAD_BYTES);
    Ref made(PyBytes_FromStringAndSize(nullptr, heads + headers->len + trailers->len + size));
    if (!made) return nullptr;
    char* at = PyBytes_AS_STRING(made.get());
    const auto put = [&](unsigned kind, unsigned flags, const View& block) {
        at = FrameHead{static_cast<std::size_t>(block->len), kind, flags, stream}.write(at);
        at = static_cast<char*>(std::memcpy(at, block->buf, static_cast<std::size_t>(block->len))) + block->len;
    };
    if (begins) put(HEADERS, END_HEADERS, headers);
    if (some) at = FrameHead{static_cast<std::size_t>(size), DATA, last ? END_STREAM : 0, stream}.write(at);
    Py_ssize_t left = size;
    for (Py_ssize_t i = 0, pieces = PySequence_Size(arguments[2]); i < pieces; ++i) {
        Ref piece(PySequence_GetItem(arguments[2], i));
        View view;
        if (!piece || !view.open(piece.get(), PyBUF_SIMPLE)) return nullptr;
        if ((left -= view->len) < 0) break;
        at = static_cast<char*>(std::memcpy(at, view->buf, static_cast<std::size_t>(view->len))) + view->len;
    }
    if (left) return PyErr_SetString(PyExc_ValueError, "`size` is not the size of `data`"), nullptr;
    if (ends) put(HEADERS, END_HEADERS | END_STREAM, trailers);
    return made.give();
}

}  // namespace
}  // namespace modelmill
