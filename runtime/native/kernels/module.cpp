// Products with coded weights, for Python: see modelmill/kernels/native.py for what it checks, _kernels.pyi for the
// interface. Pointers in, floats out: torch is not linked, so the module fits any.
//
// The caller vouches for every pointer and shape: nothing of a file is read here but codes, scales, zeros and levels.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <new>

#include "arguments.hpp"
#include "sets.hpp"
#ifndef MODELMILL_EMULATE
#include "floats.hpp"
#endif

namespace modelmill::kernels {
namespace {

using Linear = void (*)(const Weight&, const float*, int64_t, float, int, const Finish&);
using Conv = void (*)(const Weight&, const Image&, const float*, float, int, const Finish&);
using PackedLinear = void (*)(const Weight&, const Packed&, const float*, int64_t, float, int, const Finish&);
using Run = void (*)(const Program&, int);
struct Set {
    const char* name;
    bool (*here)();
    Linear linear;
    Conv conv;
    Run run;
    PackedLinear packed_linear;
};

bool always() { return true; }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"); }
#ifndef MODELMILL_EMULATE
bool has_vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
#endif

// Worst first; a processor that has one has those before it.
const Set sets[] = {{"portable", always, portable::linear, portable::conv, portable::run, portable::packed_linear},
#ifdef MODELMILL_EMULATE
                    {"avx512vnni", has_avx2, vnni::linear, vnni::conv, vnni::run, vnni::packed_linear}};
#else
                    {"avx2", has_avx2, avx2::linear, avx2::conv, avx2::run, avx2::packed_linear},
                    {"avx512vnni", has_vnni, vnni::linear, vnni::conv, vnni::run, vnni::packed_linear}};
#endif
constexpr int64_t SETS = sizeof(sets) / sizeof(*sets);

Weight weight_of(Arguments& arguments) {
    Weight weight{};
    weight.codes = arguments.pointer<const uint8_t>();
    weight.scale = arguments.pointer<const float>();
    weight.levels = arguments.pointer<const int8_t>();
    weight.zero = arguments.pointer<const int8_t>();
    weight.bias = arguments.pointer<const float>();
    weight.bits = static_cast<int>(arguments.whole());
    weight.outputs = arguments.whole();
    weight.inputs = arguments.whole();
    weight.groups = static_cast<int>(arguments.whole());
    return weight;
}

// What Python wrote into an array, one number after the other.
class Numbers {
public:
    explicit Numbers(const int64_t* at) : at_(at) {}
    int64_t whole() { return *at_++; }
    template <typename Pointed>
    Pointed* pointer() {
        return reinterpret_cast<Pointed*>(static_cast<uintptr_t>(whole()));
    }
    float number() {
        double value;
        std::memcpy(&value, at_++, sizeof value);
        return static_cast<float>(value);
    }

private:
    const int64_t* at_;
};

Value value_of(Numbers& numbers) {
    Value value{};
    for (int64_t* field : {&value.channels, &value.height, &value.width, &value.border, &value.whole_border, &value.floats_at,
                           &value.whole_at, &value.given, &value.taken})
        *field = numbers.whole();
    value.fixed = numbers.number();
    return value;
}

Op op_of(Numbers& numbers) {
    Op op{};
    op.weight.codes = numbers.pointer<const uint8_t>();
    op.weight.scale = numbers.pointer<const float>();
    op.weight.levels = numbers.pointer<const int8_t>();
    op.weight.bias = numbers.pointer<const float>();
    op.weight.bits = static_cast<int>(numbers.whole());
    op.weight.outputs = numbers.whole();
    op.weight.inputs = numbers.whole();
    op.weight.groups = 1;
    op.dense = numbers.pointer<const float>();
    op.runs = numbers.pointer<const uint8_t>();
    op.order = numbers.pointer<const uint16_t>();
    for (const int32_t** table : {&op.offsets, &op.from, &op.to, &op.added}) *table = numbers.pointer<const int32_t>();
    for (int64_t* field : {&op.x, &op.residual, &op.out, &op.pixels, &op.steps}) *field = numbers.whole();
    op.relu = numbers.whole() != 0;
    op.rows = numbers.whole() != 0;
    return op;
}

Program program_of(Arguments& arguments, int64_t& threads) {
    Program program{};
    Numbers numbers(arguments.pointer<const int64_t>());
    const int64_t values = arguments.whole(), ops = arguments.whole(), given = arguments.whole(), taken = arguments.whole();
    for (int64_t* field : {&program.batch, &program.block, &program.area, &program.multiplications, &threads})
        *field = arguments.whole();
    for (int64_t i = 0; i < given; ++i) program.given.push_back(arguments.pointer<const float>());
    for (int64_t i = 0; i < taken; ++i) program.taken.push_back(arguments.pointer<float>());
    if (!arguments.good()) return program;
    for (int64_t i = 0; i < values; ++i) program.values.push_back(value_of(numbers));
    for (int64_t i = 0; i < ops; ++i) program.ops.push_back(op_of(numbers));
    return program;
}

const Set* set_of(Arguments& arguments) {
    const int64_t index = arguments.whole();
    if (index >= 0 && index < SETS && sets[index].here()) return &sets[index];
    if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "there is no instruction set %lld here", static_cast<long long>(index));
    return nullptr;
}

// Without the interpreter's lock.
template <typename Work>
PyObject* answer(const Work& work) {
    bool full = false;
    Py_BEGIN_ALLOW_THREADS;
    try {
        work();
    } catch (const std::bad_alloc&) {
        full = true;
    }
    Py_END_ALLOW_THREADS;
    if (full) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject* linear(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    const Set* set = set_of(arguments);
    if (!set) return nullptr;
    const Weight weight = weight_of(arguments);
    const auto* x = arguments.pointer<const float>();
    const int64_t rows = arguments.whole();
    const float fixed = arguments.number();
    const auto threads = static_cast<int>(arguments.whole());
    const Finish finish{arguments.pointer<float>(), nullptr, arguments.whole() != 0};
    if (!arguments.good()) return nullptr;
    return answer([&] { set->linear(weight, x, rows, fixed, threads, finish); });
}

PyObject* conv(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    const Set* set = set_of(arguments);
    if (!set) return nullptr;
    const Weight weight = weight_of(arguments);
    const auto* x = arguments.pointer<const float>();
    Image image{};
    for (int64_t* field : {&image.batch, &image.channels, &image.height, &image.width}) *field = arguments.whole();
    for (auto* pair : {&image.kernel, &image.stride, &image.padding, &image.dilation})
        for (int64_t& value : *pair) value = arguments.whole();
    image.channels_last = arguments.whole() != 0;
    const float fixed = arguments.number();
    const auto threads = static_cast<int>(arguments.whole());
    auto* out = arguments.pointer<float>();
    const auto* residual = arguments.pointer<const float>();
    const Finish finish{out, residual, arguments.whole() != 0};
    if (!arguments.good()) return nullptr;
    return answer([&] { set->conv(weight, image, x, fixed, threads, finish); });
}

PyObject* run(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    const Set* set = set_of(arguments);
    if (!set) return nullptr;
    int64_t threads = 1;
    const Program program = program_of(arguments, threads);
    if (!arguments.good()) return nullptr;
    return answer([&] { set->run(program, static_cast<int>(threads)); });
}

// They are the same for every set. Whether there are any.
PyObject* runs(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    const Weight weight = weight_of(arguments);
    const int64_t steps = arguments.whole();
    const auto largest = static_cast<int>(arguments.whole());
    auto* lengths = arguments.pointer<uint8_t>();
    auto* order = arguments.pointer<uint16_t>();
    if (!arguments.good()) return nullptr;
    try {
        return PyBool_FromLong(portable::runs_of(weight, steps, largest, lengths, order));
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    }
}

PyObject* packed_linear(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    const Set* set = set_of(arguments);
    if (!set) return nullptr;
    const Weight weight = weight_of(arguments);
    const Packed packed{arguments.pointer<const uint8_t>(), arguments.pointer<const uint16_t>(),
                        arguments.pointer<const int32_t>()};
    const auto* x = arguments.pointer<const float>();
    const int64_t rows = arguments.whole();
    const float fixed = arguments.number();
    const auto threads = static_cast<int>(arguments.whole());
    const Finish finish{arguments.pointer<float>(), nullptr, arguments.whole() != 0};
    if (!arguments.good()) return nullptr;
    return answer([&] { set->packed_linear(weight, packed, x, rows, fixed, threads, finish); });
}

#ifndef MODELMILL_EMULATE
PyObject* gelu(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    const auto* x = arguments.pointer<const float>();
    auto* y = arguments.pointer<float>();
    const int64_t size = arguments.whole();
    const bool by_tanh = arguments.whole() != 0;
    const auto threads = static_cast<int>(arguments.whole());
    if (!arguments.good()) return nullptr;
    return answer([&] { floats::gelu(x, y, size, by_tanh, threads); });
}

PyObject* attention(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    Attention all{};
    for (const float** part : {&all.q, &all.k, &all.v}) *part = arguments.pointer<const float>();
    all.out = arguments.pointer<float>();
    all.seen = arguments.pointer<const uint8_t>();
    all.added = arguments.pointer<const float>();
    for (int64_t* field : {&all.batch, &all.heads, &all.queries, &all.keys, &all.width}) *field = arguments.whole();
    for (auto* strides : {&all.q_strides, &all.k_strides, &all.v_strides, &all.out_strides, &all.mask_strides})
        for (int64_t& stride : *strides) stride = arguments.whole();
    all.scale = arguments.number();
    const auto threads = static_cast<int>(arguments.whole());
    if (!arguments.good()) return nullptr;
    return answer([&] { floats::attend(all, threads); });
}
#endif

// The names of the sets that this processor has, worst first; a set's place is its number.
PyObject* names(PyObject*, PyObject*) {
    PyObject* list = PyList_New(0);
    for (const Set& set : sets) {
        if (!list || !set.here()) continue;
        PyObject* name = PyUnicode_FromString(set.name);
        if (!name || PyList_Append(list, name) != 0) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

template <typename Function>
constexpr PyCFunction method(Function function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {{"linear", method(linear), METH_FASTCALL, nullptr},
                         {"conv", method(conv), METH_FASTCALL, nullptr},
                         {"packed_linear", method(packed_linear), METH_FASTCALL, nullptr},
                         {"run", method(run), METH_FASTCALL, nullptr},
                         {"runs", method(runs), METH_FASTCALL, nullptr},
#ifndef MODELMILL_EMULATE
                         {"gelu", method(gelu), METH_FASTCALL, nullptr},
                         {"attention", method(attention), METH_FASTCALL, nullptr},
#endif
                         {"names", names, METH_NOARGS, nullptr},
                         {}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace modelmill::kernels

PyMODINIT_FUNC PyInit__kernels() { return PyModule_Create(&modelmill::kernels::definition); }
