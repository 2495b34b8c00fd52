/* Memory that ends at a page which must not be touched: a read or write beyond its end faults at once, and bytes
 * before its beginning are checked when it is freed. */
#ifndef CLOCHER_TESTS_SUPPORT_GUARD_H
#define CLOCHER_TESTS_SUPPORT_GUARD_H

#include <stddef.h>

/* `size` >= 1 bytes whose end is the end of a page; filled with 0xFF, which is NaN in every float format. Never NULL: the
 * test fails instead. */
void *guard_alloc(size_t size);
/* Frees it; fails the test when something was written before it (down to the beginning of its page). */
void guard_free(void *memory);

#endif
