/* Whether another machine is emulated (make aarch64): limits of time say nothing there, and what a test does a thousand
 * times it does less often. */
#ifndef CLOCHER_TESTS_SUPPORT_EMULATED_H
#define CLOCHER_TESTS_SUPPORT_EMULATED_H

#include <stdbool.h>
#include <stdlib.h>

/* scripts/test.sh was told what to put before each test. */
static inline bool emulated(void) {
  return getenv("TEST_RUNNER") != NULL;
}

/* The step of a loop over cases of one kind: every case, but each n-th where a machine is emulated, or where
 * ThreadSanitizer, some fifty times slower, looks for races that any of the cases would show. */
static inline int emulated_step(int n) {
#ifdef __SANITIZE_THREAD__
  return n;
#else
  return emulated() ? n : 1;
#endif
}

/* The same, and under AddressSanitizer: where each case of a kind goes through the same code as the next one. */
static inline int sanitized_step(int n) {
#ifdef __SANITIZE_ADDRESS__
  return n;
#else
  return emulated_step(n);
#endif
}

#endif
