#include "support/guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { PAGE = 4096, MARK = 0xA5 };

/* In the page before the data. */
typedef struct guard_header {
  size_t size, mapped;
} guard_header;

/* Layout: header page, then data pages (front filled with MARK), then a page without rights. */
static uint8_t *guard_base(void *memory) {
  return (uint8_t *)((uintptr_t)memory / PAGE * PAGE) - PAGE;
}

void *guard_alloc(size_t size) {
  assert_true(size > 0);
  size_t pages = (size + PAGE - 1) / PAGE, mapped = (pages + 2) * PAGE;
  uint8_t *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(base != MAP_FAILED);
  assert_int_equal(mprotect(base + mapped - PAGE, PAGE, PROT_NONE), 0);
  uint8_t *memory = base + mapped - PAGE - size;
  *(guard_header *)(void *)base = (guard_header){size, mapped};
  memset(base + PAGE, MARK, (size_t)(memory - base) - PAGE);
  memset(memory, 0xFF, size);
  return memory;
}

void guard_free(void *memory) {
  if (!memory) return;
  uint8_t *base = guard_base(memory);
  guard_header header = *(guard_header *)(void *)base;
  for (const uint8_t *p = base + PAGE; p < (uint8_t *)memory; p++)
    if (*p != MARK) fail_msg("byte %td before guarded memory was overwritten", (uint8_t *)memory - p);
  assert_int_equal(munmap(base, header.mapped), 0);
}
