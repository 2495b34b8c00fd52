#include "kernels/kern.h"

#include "base/cpu.h"

#include <string.h>

static const char *const isa_names[IE_ISA_COUNT] = {"scalar", "avx2", "avx512", "amx"};

ie_isa ie_isa_best(void) {
  ie_cpu_features cpu;
  ie_cpu_detect(&cpu);
  if (cpu.amx) return IE_ISA_AMX;
  if (cpu.avx512) return IE_ISA_AVX512;
  if (cpu.avx2) return IE_ISA_AVX2;
  return IE_ISA_SCALAR;
}

const char *ie_isa_name(ie_isa isa) {
  return isa_names[isa];
}

int ie_isa_from_name(const char *name) {
  for (int i = 0; i < IE_ISA_COUNT; i++)
    if (strcmp(name, isa_names[i]) == 0) return i;
  return -1;
}

void ie_kernels_fill(ie_kernels *out, ie_isa isa) {
  memset(out, 0, sizeof *out);
  out->isa = isa;
  ie_kernels_fill_products__scalar(out);
  ie_kernels_fill_vector__scalar(out);
  ie_kernels_fill_swiglu_backward__scalar(out);
  ie_kernels_fill_backward__scalar(out);
  ie_kernels_fill_gemm__scalar(out);
  ie_kernels_fill_weight_cols__scalar(out);
#if defined(__x86_64__) && !defined(IE_REAL_DOUBLE)
  if (isa >= IE_ISA_AVX2) {
    ie_kernels_fill_products__avx2(out);
    ie_kernels_fill_vector__avx2(out);
    ie_kernels_fill_swiglu_backward__avx2(out);
    ie_kernels_fill_backward__avx2(out);
    ie_kernels_fill_gemm__avx2(out);
    ie_kernels_fill_weight_cols__avx2(out);
  }
  if (isa >= IE_ISA_AVX512) {
    ie_kernels_fill_products__avx512(out);
    ie_kernels_fill_vector__avx512(out);
    ie_kernels_fill_swiglu_backward__avx512(out);
    ie_kernels_fill_backward__avx512(out);
    ie_kernels_fill_gemm__avx512(out);
    ie_kernels_fill_weight_cols__avx512(out);
  }
  if (isa >= IE_ISA_AMX) {
    ie_kernels_fill_products__amx(out);
    ie_kernels_fill_gemm__amx(out);
    ie_kernels_fill_attend__amx(out);
  }
#endif
}
