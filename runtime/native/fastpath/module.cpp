// The fast path of requests, for Python: see modelmill/serve/fastpath.py for what it is, _fastpath.pyi for the interface.
//
// Everything happens in the event loop's thread with the interpreter's lock held: no locks, and no Python is called but
// `opened`.

#include "gate.hpp"

namespace modelmill {
namespace {

PyTypeObject* gate_type;

template <typename Function>
constexpr PyCFunction method(Function function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef slot_methods[] = {{"cancel", slot_cancel, METH_NOARGS, nullptr}, {}};
PyMethodDef batch_methods[] = {{"answer", batch_answer, METH_O, nullptr},
                               {"owners", batch_owners, METH_NOARGS, nullptr},
                               {"split", batch_split, METH_NOARGS, nullptr},
                               {}};
PyGetSetDef batch_fields[] = {
    {"inputs", batch_inputs, nullptr, nullptr, nullptr},     {"rows", batch_rows, nullptr, nullptr, nullptr},
    {"requests", batch_requests, nullptr, nullptr, nullptr}, {"path", batch_path, nullptr, nullptr, nullptr},
    {"began", batch_began, nullptr, nullptr, nullptr},       {}};
PyMethodDef gate_methods[] = {{"take", method(gate_take), METH_FASTCALL, nullptr},
                              {"seal", gate_seal, METH_NOARGS, nullptr},
                              {"learn", gate_learn, METH_VARARGS, nullptr},
                              {"forget", gate_forget, METH_NOARGS, nullptr},
                              {}};

template <typename Function>
void* slot_of(Function function) {
    return reinterpret_cast<void*>(function);
}

PyType_Slot slot_slots[] = {{Py_tp_dealloc, slot_of(Slot::end)}, {Py_tp_methods, slot_methods}, {}};
PyType_Slot batch_slots[] = {
    {Py_tp_dealloc, slot_of(Batch::end)}, {Py_tp_methods, batch_methods}, {Py_tp_getset, batch_fields}, {}};
PyType_Slot gate_slots[] = {{Py_tp_new, slot_of(gate_new)},     {Py_tp_dealloc, slot_of(Gate::end)},
                            {Py_tp_methods, gate_methods},      {Py_tp_traverse, slot_of(gate_traverse)},
                            {Py_tp_clear, slot_of(gate_clear)}, {}};

constexpr unsigned CLOSED = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
PyType_Spec slot_spec = {"modelmill.serve._fastpath.Slot", sizeof(Slot), 0, CLOSED, slot_slots};
PyType_Spec batch_spec = {"modelmill.serve._fastpath.Batch", sizeof(Batch), 0, CLOSED, batch_slots};
PyType_Spec gate_spec = {"modelmill.serve._fastpath.Gate", sizeof(Gate), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, gate_slots};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_fastpath", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

bool add(PyObject* module, PyType_Spec& spec, PyTypeObject*& type) {
    type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    return type && PyModule_AddType(module, type) == 0;
}

}  // namespace
}  // namespace modelmill

PyMODINIT_FUNC PyInit__fastpath() {
    using namespace modelmill;
    Ref module(PyModule_Create(&definition));
    if (!module || !add(module.get(), slot_spec, slot_type) || !add(module.get(), batch_spec, batch_type) ||
        !add(module.get(), gate_spec, gate_type))
        return nullptr;
    return module.give();
}
