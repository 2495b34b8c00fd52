/* What this processor, this kernel and this process may execute.
 *
 * Sources: Intel SDM volume 1, chapters 13 (XSAVE) and 18 (AMX). An instruction set counts only when CPUID lists it
 * and XGETBV says that the operating system saves its registers; AMX needs, besides, a permission that Linux gives
 * a process on request (arch_prctl ARCH_REQ_XCOMP_PERM), which ie_cpu_detect asks for. CPUID leaf 0x1D (tile
 * palettes) is never read: virtual machines leave it zero while the tiles work.
 *
 * Thread safety: any number of threads may ask at once; nothing is cached. */
#ifndef CLOCHER_BASE_CPU_H
#define CLOCHER_BASE_CPU_H

#include <stdbool.h>

typedef struct ie_cpu_features {
  bool avx2;   /* AVX2, FMA, F16C and BMI1/2 */
  bool avx512; /* avx2 and AVX-512 F, BW, VL, DQ, VNNI, VBMI */
  bool amx;    /* avx512 and AMX tiles with BF16 and INT8, permitted */
} ie_cpu_features;

/* All false on a processor that is not x86-64. */
void ie_cpu_detect(ie_cpu_features *out);

#endif
