/* The n-th allocation fails: for tests that a full machine neither crashes nor leaks.
 *
 * The test program is linked with -Wl,--wrap for malloc, calloc, realloc, aligned_alloc, posix_memalign, strdup,
 * mmap and pthread_create (mk/alloc.mk), which routes every such call of our own objects through here. Shared
 * libraries keep their own calls, so they are given these functions where they take any: jansson by
 * json_set_alloc_funcs, PCRE2 by wrapping the two calls that make its contexts. What libc, nettle and utf8proc
 * allocate inside does not fail (scandir, fopen), nor do PCRE2's pages of compiled code.
 *
 * Leaks are found by LeakSanitizer where the tests run under AddressSanitizer; without it the number of blocks that
 * jansson holds must return to what it was. */
#ifndef CLOCHER_TESTS_SUPPORT_FAILING_MALLOC_H
#define CLOCHER_TESTS_SUPPORT_FAILING_MALLOC_H

#include "clocher/status.h"

#include <stdbool.h>

typedef enum failing_mode {
  FAILING_ONCE, /* the n-th call fails, later ones succeed: an error that is swallowed shows up as a wrong result */
  FAILING_FOREVER /* the n-th call and all after it fail: cleaning up must not need memory */
} failing_mode;

/* Routes the allocations of jansson and PCRE2 through the failing ones: at the start of main, and back at its end. */
void failing_malloc_install(void);
void failing_malloc_uninstall(void);

/* From now on, in all threads, the n-th call (n = 1: the next) fails. */
void failing_malloc_arm(long n, failing_mode mode);
/* Back to normal. True when a call has failed since it was armed. */
bool failing_malloc_disarm(void);
/* Calls since it was armed. */
long failing_malloc_calls(void);

/* An operation that does everything from nothing and releases all of it: returns IE_OK, or a failure. Calls
 * failing_malloc_disarm() before it checks results with cmocka, which allocates. */
typedef ie_status (*failing_operation)(void *arg, ie_error *error);

typedef struct failing_case {
  const char *name;
  failing_operation run;
  bool tolerant; /* it may also succeed although a call failed (it can do without: a cache, a thread) */
  long limit;    /* the most allocations that it may take; 0: 20,000 */
} failing_case;

/* Runs the case with n = 1, 2, 3 ... in both modes until it succeeds with no call failed. Each failed run must
 * return IE_OUT_OF_MEMORY (or IE_LIMIT, when it was a thread that could not start) with a message. Fails the test with the case, the mode and n. */
void failing_malloc_exhaust(const failing_case *c, void *arg);

#endif
