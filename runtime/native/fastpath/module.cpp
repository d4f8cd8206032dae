// The fast path of requests, for Python: see modelmill/serve/fastpath.py and http2/front.py for what it is, _fastpath.pyi
// for the interface.
//
// Everything happens in the event loop's thread with the interpreter's lock held: no locks.

#include "front.hpp"
#include "gate.hpp"

namespace modelmill {
namespace {

PyTypeObject *gate_type, *front_type;

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

PyMethodDef front_methods[] = {{"listen", front_listen, METH_VARARGS, nullptr},
                               {"answer_by", front_answer_by, METH_O, nullptr},
                               {"get_buffer", front_get_buffer, METH_O, nullptr},
                               {"buffer_updated", front_buffer_updated, METH_O, nullptr},
                               {}};
constexpr auto CONTENT = offsetof(Front, content);
PyMemberDef front_fields[] = {{"between", T_BOOL, CONTENT + offsetof(FrontContent, between), 0, nullptr},
                              {"pings", T_INT, CONTENT + offsetof(FrontContent, pings), 0, nullptr},
                              {}};
PyMethodDef functions[] = {{"frames", method(frames), METH_FASTCALL, nullptr}, {}};

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
PyType_Slot front_slots[] = {{Py_tp_new, slot_of(front_new)},
                             {Py_tp_dealloc, slot_of(Front::end)},
                             {Py_tp_methods, front_methods},
                             {Py_tp_members, front_fields},
                             {Py_tp_traverse, slot_of(front_traverse)},
                             {Py_tp_clear, slot_of(front_clear)},
                             {}};

constexpr unsigned CLOSED = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
PyType_Spec slot_spec = {"modelmill.serve._fastpath.Slot", sizeof(Slot), 0, CLOSED, slot_slots};
PyType_Spec batch_spec = {"modelmill.serve._fastpath.Batch", sizeof(Batch), 0, CLOSED, batch_slots};
PyType_Spec gate_spec = {"modelmill.serve._fastpath.Gate", sizeof(Gate), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, gate_slots};
PyType_Spec front_spec = {"modelmill.serve._fastpath.Front", sizeof(Front), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, front_slots};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_fastpath", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};

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
        !add(module.get(), gate_spec, gate_type) || !add(module.get(), front_spec, front_type) ||
        !(name_request = PyUnicode_InternFromString("request")) || !(name_received = PyUnicode_InternFromString("received")))
        return nullptr;
    return module.give();
}
