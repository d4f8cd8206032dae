// Products with sparse and binary weights, for modelmill/kernels: _sparse.pyi has the interface.
//
// Memory comes as addresses: the caller keeps the tensors alive, contiguous and of the sizes that the numbers say. The
// interpreter's lock is given back during the work.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <new>

#include "binary.hpp"
#include "blocks_vnni.hpp"
#include "dots.hpp"
#include "image.hpp"
#include "split.hpp"

namespace modelmill::sparse {
namespace {

// The whole numbers that a function was called with.
template <int COUNT>
struct Numbers {
    long long at[COUNT];
    bool read(PyObject* const* arguments, Py_ssize_t given) {
        if (given != COUNT) {
            PyErr_Format(PyExc_TypeError, "%d arguments expected, %zd given", COUNT, given);
            return false;
        }
        for (int i = 0; i < COUNT; ++i) {
            at[i] = PyLong_AsLongLong(arguments[i]);
            if (at[i] == -1 && PyErr_Occurred()) return false;
        }
        return true;
    }
    template <typename Value>
    Value* pointer(int i) const {
        return reinterpret_cast<Value*>(at[i]);
    }
};

PyObject* refuse(const char* what) {
    PyErr_SetString(PyExc_ValueError, what);
    return nullptr;
}

template <typename Work>
PyObject* unlocked(const Work& work) {
    bool fits = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        work();
    } catch (const std::bad_alloc&) {
        fits = false;
    }
    Py_END_ALLOW_THREADS;
    if (!fits) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

// Offsets that only grow, from 0 to `last`.
bool grows(const int32_t* starts, Index count, Index last) {
    if (starts[0] != 0 || starts[count] != last) return false;
    for (Index i = 0; i < count; ++i)
        if (starts[i] > starts[i + 1]) return false;
    return true;
}

int best_level() {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PORTABLE;
    const bool vnni =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
    return vnni ? VNNI : AVX2;
}

// The best set here up to the one that was asked for.
int level_of(long long asked) {
    static const int best = best_level();
    return static_cast<int>(std::min<long long>(asked, best));
}

PyObject* sets(PyObject*, PyObject*) {
    constexpr const char* names[] = {"portable", "avx2", "avx512vnni"};
    PyObject* found = PyList_New(0);
    for (int level = 0; found && level <= level_of(VNNI); ++level) {
        PyObject* name = PyUnicode_FromString(names[level]);
        if (!name || PyList_Append(found, name) < 0) Py_CLEAR(found);
        Py_XDECREF(name);
    }
    return found;
}

// values, is_float, index, wide, starts, quads, height, outputs, inputs, scale, bias, out: of both functions on blocks.
Blocks blocks_of(const long long* at) {
    return Blocks{reinterpret_cast<const void*>(at[0]),
                  reinterpret_cast<const void*>(at[2]),
                  at[3] != 0,
                  reinterpret_cast<const int32_t*>(at[4]),
                  at[7],
                  at[8],
                  reinterpret_cast<const float*>(at[9]),
                  reinterpret_cast<const float*>(at[10]),
                  reinterpret_cast<float*>(at[11])};
}
const char* wrong_blocks(const long long* at) {
    const Index height = at[6], outputs = at[7], inputs = at[8];
    if (height != 16 && height != 4) return "blocks have 16 or 4 rows";
    if (outputs < 1 || inputs < 1) return "a weight has at least one row and one input";
    const Index blocks = (outputs + height - 1) / height;
    return grows(reinterpret_cast<const int32_t*>(at[4]), blocks, at[5]) ? nullptr
                                                                         : "starts must grow from 0 to the number of quads";
}

PyObject* block_linear(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<16> n;
    if (count < 1) return refuse("17 arguments expected");
    const double given = PyFloat_AsDouble(arguments[count - 1]);
    if ((given == -1.0 && PyErr_Occurred()) || !n.read(arguments, count - 1)) return nullptr;
    if (const char* wrong = wrong_blocks(n.at)) return refuse(wrong);
    const Blocks w = blocks_of(n.at);
    const bool is_float = n.at[1] != 0;
    const int level = level_of(n.at[15]);
    const int height = static_cast<int>(n.at[6]);
    const Index quads = n.at[5], rows = n.at[13], threads = n.at[14], blocks = (w.outputs + height - 1) / height;
    const auto* x = n.pointer<const float>(12);
    return unlocked([&] {
        const double products = 4.0 * quads * height * rows;
        if (is_float)
            return split(blocks, products, threads,
                         [&](Index from, Index to) { floats(w, x, rows, height, level >= AVX2, from, to); });
        const Codes codes = quantize(x, rows, w.inputs, static_cast<float>(given), level >= AVX2);
        std::vector<Index> begins(rows);
        for (Index m = 0; m < rows; ++m) begins[m] = m * codes.stride;
        const Picks<false> picks{codes.values.data(), begins.data(), codes.scales.data(), nullptr};
        split(blocks, products, threads, [&](Index from, Index to) { integers(w, picks, rows, height, level, from, to); });
    });
}

PyObject* block_conv2d(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<29> n;
    if (count < 1) return refuse("30 arguments expected");
    const double given = PyFloat_AsDouble(arguments[count - 1]);
    if ((given == -1.0 && PyErr_Occurred()) || !n.read(arguments, count - 1)) return nullptr;
    if (const char* wrong = wrong_blocks(n.at)) return refuse(wrong);
    const Blocks w = blocks_of(n.at);
    const long long* at = n.at + 13;
    const Geometry g{at[0], at[1], at[2], at[3], {at[4], at[5]}, {at[6], at[7]}, {at[8], at[9]}, at[10], at[11], at[12], at[13]};
    if (n.at[1] || !g.fits() || w.inputs != g.kernel[0] * g.kernel[1] * g.channels)
        return refuse("the image does not fit the weight");
    if (g.rows * g.columns * g.channels >= 1LL << 32) return refuse("an image of more than 2^32 numbers");
    const int level = level_of(n.at[28]);
    const int height = static_cast<int>(n.at[6]);
    return unlocked([&] {
        const Image image(n.pointer<const float>(12), g, static_cast<float>(given), level >= AVX2);
        const Picks<true> picks{image.values.data(), image.pixels.data(), image.scales.data(), image.offsets.data()};
        const Index pixels = static_cast<Index>(image.pixels.size());
        split((w.outputs + height - 1) / height, 4.0 * n.at[5] * height * pixels, n.at[27],
              [&](Index from, Index to) { integers(w, picks, pixels, height, level, from, to); });
    });
}

PyObject* block_decode(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<14> n;
    if (!n.read(arguments, count)) return nullptr;
    if (const char* wrong = wrong_blocks(n.at)) return refuse(wrong);
    const Blocks w = blocks_of(n.at);
    const int height = static_cast<int>(n.at[6]);
    const Index from = n.at[12], to = n.at[13];
    if (from < 0 || to < from || to > (w.outputs + height - 1) / height) return refuse("no such rows");
    return unlocked([&] { n.at[1] ? decode<float>(w, height, from, to) : decode<int8_t>(w, height, from, to); });
}

// values, is_float, bits, starts, kept, outputs, inputs, scale, bias, out: of both functions on sparse weights.
Sparse sparse_of(const long long* at) {
    return Sparse{reinterpret_cast<const void*>(at[0]),
                  reinterpret_cast<const uint8_t*>(at[2]),
                  reinterpret_cast<const int32_t*>(at[3]),
                  at[4],
                  at[5],
                  at[6]};
}
const char* wrong_sparse(const Sparse& w) {
    if (w.outputs < 1 || w.inputs < 1) return "a weight has at least one row and one input";
    if (w.starts) return grows(w.starts, w.outputs, w.kept) ? nullptr : "starts must grow from 0 to the number of values";
    return w.inputs % 4 == 0 && w.kept == w.outputs * (w.inputs / 2) ? nullptr : "2 of 4 keeps half of a multiple of 4 inputs";
}

PyObject* sparse_linear(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<14> n;
    if (count < 1) return refuse("15 arguments expected");
    const double given = PyFloat_AsDouble(arguments[count - 1]);
    if ((given == -1.0 && PyErr_Occurred()) || !n.read(arguments, count - 1)) return nullptr;
    const Sparse w = sparse_of(n.at);
    if (const char* wrong = wrong_sparse(w)) return refuse(wrong);
    if (n.at[1]) return refuse("floats are written out and multiplied elsewhere");
    const Result result{n.pointer<const float>(7), n.pointer<const float>(8), n.pointer<float>(9), w.outputs};
    const auto* x = n.pointer<const float>(10);
    const Index rows = n.at[11], threads = n.at[12];
    const bool avx2 = level_of(n.at[13]) >= AVX2;
    return unlocked([&] {
        const Codes codes = quantize(x, rows, w.inputs, static_cast<float>(given), avx2);
        split(w.outputs, 1.0 * w.outputs * w.inputs * rows, threads,
              [&](Index from, Index to) { sparse_rows(w, codes, rows, avx2, from, to, result); });
    });
}

PyObject* sparse_decode(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<13> n;
    if (!n.read(arguments, count)) return nullptr;
    const Sparse w = sparse_of(n.at);
    if (const char* wrong = wrong_sparse(w)) return refuse(wrong);
    const Index from = n.at[10], to = n.at[11];
    if (from < 0 || to < from || to > w.outputs) return refuse("no such rows");
    const bool avx2 = level_of(n.at[12]) >= AVX2;
    const auto* scale = n.pointer<const float>(7);
    auto* out = n.pointer<float>(9);
    return unlocked(
        [&] { n.at[1] ? decode<float>(w, scale, out, avx2, from, to) : decode<int8_t>(w, scale, out, avx2, from, to); });
}

PyObject* dense_linear(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<9> n;  // weight, scale, bias, out, x, rows, outputs, inputs, level
    if (!n.read(arguments, count)) return nullptr;
    const Index rows = n.at[5], outputs = n.at[6], inputs = n.at[7];
    if (inputs < 32 || inputs % 32) return refuse("inputs must be a multiple of 32");
    const bool avx2 = level_of(n.at[8]) >= AVX2;
    return unlocked([&] {
        const Codes codes = quantize(n.pointer<const float>(4), rows, inputs, 0.0f, avx2);
        const Result result{n.pointer<const float>(1), n.pointer<const float>(2), n.pointer<float>(3), outputs};
        dense_rows(n.pointer<const int8_t>(0), codes, rows, avx2, 0, outputs, result);
    });
}

PyObject* binary_linear(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<10> n;  // signs, scale, bias, out, x, rows, outputs, inputs, threads, level
    if (!n.read(arguments, count)) return nullptr;
    const auto* weight = n.pointer<const uint64_t>(0);
    const auto *scale = n.pointer<const float>(1), *bias = n.pointer<const float>(2);
    auto* out = n.pointer<float>(3);
    const Index rows = n.at[5], outputs = n.at[6], inputs = n.at[7], words = words_of(inputs);
    if (outputs < 1 || inputs < 1) return refuse("a weight has at least one row and one input");
    const bool avx2 = level_of(n.at[9]) >= AVX2;
    return unlocked([&] {
        const Signs x = pack(n.pointer<const float>(4), rows, inputs, avx2);
        const auto differing = avx2 ? differing_avx2 : differing_portable;
        // 64 products take as long as four of int8.
        split(outputs, 1.0 * outputs * words * 4 * rows, n.at[8], [&](Index from, Index to) {
            for (Index row = from; row < to; ++row)
                for (Index m = 0; m < rows; ++m) {
                    const Index sum = inputs - 2 * differing(weight + row * words, x.bits.data() + m * words, words);
                    out[m * outputs + row] = scaled(static_cast<int32_t>(sum), scale[row], x.means[m], bias, row);
                }
        });
    });
}

PyObject* pack_signs(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Numbers<5> n;  // x, out, rows, inputs, level
    if (!n.read(arguments, count)) return nullptr;
    const bool avx2 = level_of(n.at[4]) >= AVX2;
    return unlocked([&] {
        for (Index m = 0; m < n.at[2]; ++m)
            (avx2 ? pack_avx2 : pack_portable)(n.pointer<const float>(0) + m * n.at[3], n.at[3],
                                               n.pointer<uint64_t>(1) + m * words_of(n.at[3]));
    });
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef functions[] = {{"sets", sets, METH_NOARGS, nullptr},
                           {"block_linear", fast(block_linear), METH_FASTCALL, nullptr},
                           {"block_conv2d", fast(block_conv2d), METH_FASTCALL, nullptr},
                           {"block_decode", fast(block_decode), METH_FASTCALL, nullptr},
                           {"sparse_linear", fast(sparse_linear), METH_FASTCALL, nullptr},
                           {"sparse_decode", fast(sparse_decode), METH_FASTCALL, nullptr},
                           {"dense_linear", fast(dense_linear), METH_FASTCALL, nullptr},
                           {"binary_linear", fast(binary_linear), METH_FASTCALL, nullptr},
                           {"pack_signs", fast(pack_signs), METH_FASTCALL, nullptr},
                           {}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_sparse", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace modelmill::sparse

PyMODINIT_FUNC PyInit__sparse() { return PyModule_Create(&modelmill::sparse::definition); }
