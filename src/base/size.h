/* Overflow-checked sizes: every product or sum of numbers that come from a file goes through here. */
#ifndef CLOCHER_BASE_SIZE_H
#define CLOCHER_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a * b; false (and *out untouched) when it does not fit a size_t. */
static inline bool ie_size_mul(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_mul_overflow(a, b, &r)) return false;
  *out = r;
  return true;
}

/* *out = a + b; false (and *out untouched) when it does not fit a size_t. */
static inline bool ie_size_add(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_add_overflow(a, b, &r)) return false;
  *out = r;
  return true;
}

/* a rounded up to a multiple of align, a power of two. The caller guarantees that a + align fits. */
static inline size_t ie_size_align(size_t a, size_t align) {
  return (a + align - 1) & ~(align - 1);
}

static inline int64_t ie_div_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
static inline int64_t ie_min_i64(int64_t a, int64_t b) {
  return a < b ? a : b;
}
static inline int64_t ie_max_i64(int64_t a, int64_t b) {
  return a > b ? a : b;
}

#endif
