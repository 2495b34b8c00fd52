#include "kernels/avx512/simd.h"

#include "blocks/int4.h"
#include "blocks/mxfp4.h"

INLINE vf table_look_up(const float table[16], const uint8_t *codes) {
  return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes)), vf_load(table));
}
INLINE vf nibbles_mxfp4(const uint8_t *codes) {
  return table_look_up(ie_mxfp4_values, codes);
}
INLINE vf nibbles_int4(const uint8_t *codes) {
  return table_look_up(ie_int4_values, codes);
}

#include "kernels/weight_cols_body.h"
