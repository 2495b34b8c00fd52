#include "base/pages.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static const size_t HUGE_BYTES = (size_t)2 << 20;

void ie_pages_huge(void *memory, size_t bytes) {
  uintptr_t first = ((uintptr_t)memory + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
  uintptr_t end = ((uintptr_t)memory + bytes) / HUGE_BYTES * HUGE_BYTES;
  if (memory && end > first) (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
}

size_t ie_page_bytes(void) {
  long bytes = sysconf(_SC_PAGESIZE);
  return bytes > 4096 ? (size_t)bytes : 4096;
}
