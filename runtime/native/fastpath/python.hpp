// CPython's objects with owners, so that every way out of a function gives them back.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <utility>

namespace modelmill {

// Owns one reference.
class Ref {
public:
    Ref() = default;
    explicit Ref(PyObject* owned) : object_(owned) {}
    static Ref to(PyObject* borrowed) { return Ref(Py_XNewRef(borrowed)); }
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Ref& operator=(Ref&& other) noexcept {
        // The old object last: giving it back may run Python.
        PyObject* old = std::exchange(object_, std::exchange(other.object_, nullptr));
        Py_XDECREF(old);
        return *this;
    }
    ~Ref() { Py_XDECREF(object_); }

    PyObject* get() const { return object_; }
    PyObject* give() { return std::exchange(object_, nullptr); }
    explicit operator bool() const { return object_ != nullptr; }

private:
    PyObject* object_ = nullptr;
};

// A buffer that stays where it is for as long as this lives.
class View {
public:
    View() = default;
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    ~View() { PyBuffer_Release(&view_); }

    bool open(PyObject* object, int flags) { return PyObject_GetBuffer(object, &view_, flags) == 0; }
    const Py_buffer* operator->() const { return &view_; }

private:
    Py_buffer view_{};
};

// A Python object that holds a C++ one. `Content` is made by the type's `tp_new` and ends with the object.
template <typename Content>
struct Object {
    PyObject_HEAD Content content;

    static Object* make(PyTypeObject* type) {
        auto* self = reinterpret_cast<Object*>(type->tp_alloc(type, 0));
        if (self) new (&self->content) Content();
        return self;
    }
    static void end(PyObject* self) {
        PyTypeObject* type = Py_TYPE(self);
        if (PyType_IS_GC(type)) PyObject_GC_UnTrack(self);
        reinterpret_cast<Object*>(self)->content.~Content();
        type->tp_free(self);
        Py_DECREF(type);
    }
    static Content& of(PyObject* self) { return reinterpret_cast<Object*>(self)->content; }
};

}  // namespace modelmill
