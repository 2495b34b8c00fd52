/* The pages of memory that this process owns: their size, and wishes about them. */
#ifndef CLOCHER_BASE_PAGES_H
#define CLOCHER_BASE_PAGES_H

#include <stddef.h>

/* Asks for huge pages in place of small ones where whole ones fit into bytes at memory: fewer misses of the table that
 * translates addresses, and a fault for 2 MiB instead of 512. Nothing is touched, and never more than `bytes` becomes
 * resident. A system that refuses costs speed alone. memory may be NULL. */
void ie_pages_huge(void *memory, size_t bytes);

/* The size of the system's pages, or 4096 where they are smaller: what is mapped in place of a file's pages and read from
 * disk is aligned to it. */
size_t ie_page_bytes(void);

#endif
