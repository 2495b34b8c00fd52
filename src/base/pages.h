/* Wishes about the pages of memory that this process owns. */
#ifndef CLOCHER_BASE_PAGES_H
#define CLOCHER_BASE_PAGES_H

#include <stddef.h>

/* Asks for huge pages in place of small ones where whole ones fit into bytes at memory: fewer misses of the table that
 * translates addresses, and a fault for 2 MiB instead of 512. Nothing is touched, and never more than `bytes` becomes
 * resident. A system that refuses costs speed alone. memory may be NULL. */
void ie_pages_huge(void *memory, size_t bytes);

#endif
