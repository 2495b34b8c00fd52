#include "tensor/device_memory.h"

#include <string.h>

ie_status ie_memory_take(ie_device *device, size_t bytes, const char *what, void **out, ie_error *error) {
  *out = NULL;
  if (device->memory) return device->memory->take(device, bytes, what, out, error);
  *out = device->alloc(device, bytes);
  if (*out) return IE_OK;
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu bytes of %s", bytes, what);
}

void ie_memory_give(ie_device *device, void *memory, size_t bytes) {
  if (device->memory)
    device->memory->give(device, memory, bytes);
  else
    device->dealloc(device, memory, bytes);
}

ie_status ie_memory_read(ie_device *device, void *host, const void *from, size_t bytes, ie_error *error) {
  if (device->memory) return device->memory->read(device, host, from, bytes, error);
  memcpy(host, from, bytes);
  return IE_OK;
}

ie_status ie_memory_write(ie_device *device, void *to, const void *host, size_t bytes, ie_error *error) {
  if (device->memory) return device->memory->write(device, to, host, bytes, error);
  memcpy(to, host, bytes);
  return IE_OK;
}
