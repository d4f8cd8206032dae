// AVX512-VNNI on any processor with AVX2, through SIMDe: for the test that runs the kernels' own source.
#pragma once

#include <immintrin.h>
#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/and.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/fmadd.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/setzero.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/srli.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/xor.h>

namespace modelmill::kernels::vnni {
using V512 = simde__m512i;
using V512F = simde__m512;
}
#define _mm512_add_epi32 simde_mm512_add_epi32
#define _mm512_and_si512 simde_mm512_and_si512
#define _mm512_dpbusd_epi32 simde_mm512_dpbusd_epi32
#define _mm512_loadu_si512 simde_mm512_loadu_si512
#define _mm512_set1_epi32 simde_mm512_set1_epi32
#define _mm512_set1_epi8 simde_mm512_set1_epi8
#define _mm512_setzero_si512 simde_mm512_setzero_si512
#define _mm512_shuffle_epi8 simde_mm512_shuffle_epi8
#define _mm512_srli_epi16 simde_mm512_srli_epi16
#define _mm512_storeu_si512 simde_mm512_storeu_si512
#define _mm512_xor_si512 simde_mm512_xor_si512
#define _mm512_fmadd_ps simde_mm512_fmadd_ps
#define _mm512_loadu_ps simde_mm512_loadu_ps
#define _mm512_set1_ps simde_mm512_set1_ps
#define _mm512_setzero_ps simde_mm512_setzero_ps
#define _mm512_storeu_ps simde_mm512_storeu_ps
