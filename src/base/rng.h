/* A counter-based generator: the n-th number of stream (seed, stream) is a pure function of (seed, stream, n),
 * so results do not depend on threads, order or what was drawn before.
 * The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied twice over the key. */
#ifndef CLOCHER_BASE_RNG_H
#define CLOCHER_BASE_RNG_H

#include <stdint.h>

static inline uint64_t ie_rng_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static inline uint64_t ie_rng_u64(uint64_t seed, uint64_t stream, uint64_t n) {
  uint64_t key = ie_rng_mix(seed + 0x9E3779B97F4A7C15u) ^ ie_rng_mix(stream * 0xD1B54A32D192ED03u + 1);
  return ie_rng_mix(key + (n + 1) * 0x9E3779B97F4A7C15u);
}

/* Uniform in [0, 1): 24 bits, exact in a float. */
static inline float ie_rng_f32(uint64_t seed, uint64_t stream, uint64_t n) {
  return (float)(ie_rng_u64(seed, stream, n) >> 40) * 0x1p-24f;
}

/* Uniform in [0, 1): 53 bits, exact in a double. */
static inline double ie_rng_f64(uint64_t seed, uint64_t stream, uint64_t n) {
  return (double)(ie_rng_u64(seed, stream, n) >> 11) * 0x1p-53;
}

#endif
