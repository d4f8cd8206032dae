// One set of functions for each instruction set, all from the same sources: a file of primitives, and those that are
// included after it. The compiler's target changes between them, so that one module runs anywhere and the loops of the
// shared files use what there is.
#pragma once

#include "image.hpp"
#include "program.hpp"
#include "weight.hpp"
#include "work.hpp"

#ifdef MODELMILL_EMULATE
// A test's build: AVX512-VNNI without such a processor.
#include MODELMILL_EMULATE
#else
#include <immintrin.h>
#endif

namespace modelmill::kernels {

constexpr int PANEL_STEPS = 288;  // a multiple of 16; with the rows' part it stays in the first-level cache
constexpr size_t PANEL_BYTES = (PANEL_STEPS + 16) * STEP_BYTES;
constexpr int64_t MOST_ROWS = 480, MOST_PIXELS = 1024;
constexpr int PIXEL = 64;                  // channels of a pixel at a time
constexpr int64_t WORTH_ASKING = 1 << 20;  // bytes of codes that do not stay in the second-level cache
constexpr float SMALLEST = 1e-36F;         // activations below count as 0: 127 over them is no number
constexpr float ROUNDER = 12582912.0F;     // 1.5 * 2 ** 23: a float that is larger has no halves

namespace portable {
#include "portable.hpp"
#include "activations.hpp"
#include "ends.hpp"
#include "engine.hpp"
#include "linear.hpp"
#include "conv.hpp"
#include "portable_program.hpp"
#include "run.hpp"
#include "packed.hpp"
}  // namespace portable

#ifdef MODELMILL_EMULATE
namespace vnni {
#include "vnni.hpp"
#include "vnni_stream.hpp"
#include "avx2_activations.hpp"
#include "activations.hpp"
#include "ends.hpp"
#include "engine.hpp"
#include "linear.hpp"
#include "conv.hpp"
#include "vnni_program.hpp"
#include "avx2_finish.hpp"
#include "run.hpp"
#include "packed.hpp"
}  // namespace vnni
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
namespace avx2 {
#include "avx2.hpp"
#include "avx2_stream.hpp"
#include "avx2_activations.hpp"
#include "activations.hpp"
#include "ends.hpp"
#include "engine.hpp"
#include "linear.hpp"
#include "conv.hpp"
#include "avx2_program.hpp"
#include "avx2_finish.hpp"
#include "run.hpp"
#include "packed.hpp"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
namespace vnni {
using V512 = __m512i;
using V512F = __m512;
#include "vnni.hpp"
#include "vnni_stream.hpp"
#include "avx2_activations.hpp"
#include "activations.hpp"
#include "ends.hpp"
#include "engine.hpp"
#include "linear.hpp"
#include "conv.hpp"
#include "vnni_program.hpp"
#include "avx2_finish.hpp"
#include "run.hpp"
#include "packed.hpp"
}  // namespace vnni
#pragma GCC pop_options
#endif

}  // namespace modelmill::kernels
