#include "tensor/arena.h"

#include "base/size.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

ie_arena ie_arena_measure(void) {
  return (ie_arena){.capacity = SIZE_MAX / 2, .measuring = true};
}

ie_status ie_arena_open(size_t bytes, ie_arena *out, ie_error *error) {
  *out = (ie_arena){0};
  if (bytes == 0) bytes = IE_ARENA_ALIGN;
  void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu bytes of activations: %s", bytes,
                        strerror(errno));
  *out = (ie_arena){.base = base, .capacity = bytes};
  return IE_OK;
}

void ie_arena_close(ie_arena *arena) {
  if (arena->base) munmap(arena->base, arena->capacity);
  *arena = (ie_arena){0};
}

bool ie_arena_take(ie_arena *arena, size_t bytes, void **out) {
  *out = NULL;
  size_t end;
  if (bytes > SIZE_MAX / 4) return false;
  if (!ie_size_add(arena->used, ie_size_align(bytes, IE_ARENA_ALIGN), &end) || end > arena->capacity)
    return false;
  if (!arena->measuring) *out = arena->base + arena->used;
  arena->used = end;
  if (end > arena->peak) arena->peak = end;
  return true;
}
