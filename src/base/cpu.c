#include "base/cpu.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 }; /* Linux: arch/x86/include/uapi/asm/prctl.h */

static uint64_t read_xcr0(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

static bool has_bits(uint64_t value, uint64_t bits) {
  return (value & bits) == bits;
}

static bool request_amx(void) {
#if defined(__linux__)
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return false;
#endif
}

void ie_cpu_detect(ie_cpu_features *out) {
  *out = (ie_cpu_features){false, false, false};
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return;
  const uint64_t osxsave_avx_fma_f16c = 1u << 27 | 1u << 28 | 1u << 12 | 1u << 29;
  if (!has_bits(c, osxsave_avx_fma_f16c)) return;
  uint64_t xcr0 = read_xcr0();
  if (!has_bits(xcr0, 0x6)) return; /* XMM and YMM */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;

  const uint64_t bmi1_avx2_bmi2 = 1u << 3 | 1u << 5 | 1u << 8;
  out->avx2 = has_bits(b, bmi1_avx2_bmi2);

  const uint64_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
  const uint64_t vbmi_vnni = 1u << 1 | 1u << 11;
  out->avx512 = out->avx2 && has_bits(xcr0, 0xE6) && has_bits(b, f_dq_bw_vl) && has_bits(c, vbmi_vnni);

  const uint64_t amx_bf16_tile_int8 = 1u << 22 | 1u << 24 | 1u << 25;
  const uint64_t tilecfg_tiledata = 1u << 17 | 1u << 18;
  out->amx =
      out->avx512 && has_bits(d, amx_bf16_tile_int8) && has_bits(xcr0, tilecfg_tiledata) && request_amx();
}

#else

void ie_cpu_detect(ie_cpu_features *out) {
  *out = (ie_cpu_features){false, false, false};
}

#endif
