/* Whether another machine is emulated (make aarch64): limits of time say nothing there. */
#ifndef CLOCHER_TESTS_SUPPORT_EMULATED_H
#define CLOCHER_TESTS_SUPPORT_EMULATED_H

#include <stdbool.h>
#include <stdlib.h>

/* scripts/test.sh was told what to put before each test. */
static inline bool emulated(void) {
  return getenv("TEST_RUNNER") != NULL;
}

#endif
