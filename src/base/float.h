/* Conversions between float and the 16-bit formats, exact or rounded to nearest even as IEEE 754 says. */
#ifndef CLOCHER_BASE_FLOAT_H
#define CLOCHER_BASE_FLOAT_H

#include <stdint.h>
#include <string.h>

static inline uint32_t ie_f32_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}

static inline float ie_f32_from_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

static inline float ie_bf16_to_f32(uint16_t h) {
  return ie_f32_from_bits((uint32_t)h << 16);
}

/* Round to nearest even; NaN stays NaN (made quiet). */
static inline uint16_t ie_f32_to_bf16(float x) {
  uint32_t u = ie_f32_bits(x);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((u >> 16) | 0x40u);
  return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

static inline float ie_f32_round_bf16(float x) {
  return ie_bf16_to_f32(ie_f32_to_bf16(x));
}

static inline float ie_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1Fu;
  uint32_t mantissa = h & 0x3FFu;
  if (exponent == 31) return ie_f32_from_bits(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) return ie_f32_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  float magnitude = (float)mantissa * 0x1p-24f; /* exact: 10 bits times a power of two */
  return ie_f32_from_bits(sign | ie_f32_bits(magnitude));
}

/* Round to nearest even; overflow gives infinity, NaN stays NaN (made quiet). */
static inline uint16_t ie_f32_to_f16(float x) {
  uint32_t u = ie_f32_bits(x);
  uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
  u &= 0x7FFFFFFFu;
  if (u > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | ((u >> 13) & 0x3FFu));
  if (u >= 0x47800000u) return (uint16_t)(sign | 0x7C00u); /* >= 2^16 */
  if (u < 0x38800000u) {                                   /* below 2^-14: the adder rounds at 2^-24 */
    uint32_t r = ie_f32_bits(ie_f32_from_bits(u) + 0.5f) - 0x3F000000u;
    return (uint16_t)(sign | r);
  }
  u += 0xFFFu + ((u >> 13) & 1u);
  return (uint16_t)(sign | ((u - 0x38000000u) >> 13)); /* a carry may give the infinity code */
}

static inline float ie_f32_round_f16(float x) {
  return ie_f16_to_f32(ie_f32_to_f16(x));
}

#endif
