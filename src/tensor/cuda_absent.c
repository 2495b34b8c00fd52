/* What answers for CUDA in a program without it. Programs with CUDA link src/cuda in its place. */
#include "tensor/device_memory.h"

#include <stdio.h>

bool ie_cuda_is_built(void) {
  return false;
}

int ie_cuda_device_count(char *why, size_t size) {
  snprintf(why, size, "this program was built without CUDA");
  return 0;
}

ie_status ie_cuda_device_open(const ie_device_options *options, int index, ie_device **out, ie_error *error) {
  (void)index;
  *out = NULL;
  return ie_error_set(error, IE_UNSUPPORTED, "device '%s': not built (this program was built without CUDA)",
                      options->kind);
}
