#include "cuda/cuda.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifndef CLOCHER_CUDA_ARCHS
#define CLOCHER_CUDA_ARCHS "unknown" /* mk/cuda.mk gives it */
#endif

/* --- Errors ------------------------------------------------------------------------------------------------- */

ie_status cuda_status(const cuda_device *device, cudaError_t result, const char *what, ie_error *error) {
  if (result == cudaSuccess) return IE_OK;
  cudaGetLastError(); /* one that is not sticky would be reported again by the next call */
  return ie_error_set(error, result == cudaErrorMemoryAllocation ? IE_OUT_OF_MEMORY : IE_DEVICE, "%s: %s: %s",
                      device->base.name, what, cudaGetErrorString(result));
}

static const double wait_limit_s = 60, spin_s = 2e-3; /* a forward takes milliseconds */

ie_status cuda_wait_for(cuda_device *device, cudaEvent_t event, const char *what, ie_error *error) {
  cudaError_t result;
  double begin = ie_clock_s();
  while ((result = cudaEventQuery(event)) == cudaErrorNotReady) {
    double waited = ie_clock_s() - begin;
    if (waited > device->wait_s) {
      device->lost = true; /* giving back memory would wait for it, too */
      cudaGetLastError();
      return ie_error_set(error, IE_DEVICE, "%s: %s: no answer for %.0f s", device->base.name, what,
                          device->wait_s);
    }
    if (waited > spin_s) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  }
  cudaGetLastError(); /* "not ready" is kept there */
  return cuda_status(device, result, what, error);
}

ie_status cuda_wait(cuda_device *device, const char *what, ie_error *error) {
  cudaError_t result = cudaEventRecord(device->done, device->queue.stream);
  if (result != cudaSuccess) return cuda_status(device, result, what, error);
  return cuda_wait_for(device, device->done, what, error);
}

bool cuda_choose(const cuda_device *device) {
  if (!device->lost) cudaSetDevice(device->index);
  return !device->lost;
}

ie_status cuda_enter(const cuda_device *device, ie_error *error) {
  if (device->lost)
    return ie_error_set(error, IE_DEVICE, "%s: it was lost: it had not answered for %.0f s",
                        device->base.name, device->wait_s);
  return cuda_status(device, cudaSetDevice(device->index), "choosing it", error);
}

/* --- Memory ------------------------------------------------------------------------------------------------- */

static void cuda_room(ie_device *device, size_t *free_bytes, size_t *total_bytes) {
  *free_bytes = *total_bytes = 0;
  if (!cuda_choose(cuda_of(device))) return;
  if (cudaMemGetInfo(free_bytes, total_bytes) != cudaSuccess) cudaGetLastError();
}

static ie_status cuda_take(ie_device *device, size_t bytes, const char *what, void **out, ie_error *error) {
  const cuda_device *cuda = cuda_of(device);
  *out = NULL;
  void *memory = NULL;
  ie_status status = cuda_enter(cuda, error);
  if (status != IE_OK) return status;
  cudaError_t result = cudaMalloc(&memory, bytes ? bytes : 1);
  if (result == cudaErrorMemoryAllocation) {
    size_t room, total;
    cudaGetLastError();
    cuda_room(device, &room, &total);
    return ie_error_set(error, IE_OUT_OF_MEMORY,
                        "%s: out of memory for %s: %zu bytes are wanted, %zu of %zu are free", device->name,
                        what, bytes, room, total);
  }
  /* What a kernel reads and then leaves out must be a number: 0 times NaN is NaN. */
  if (result == cudaSuccess) result = cudaMemsetAsync(memory, 0, bytes, cuda->queue.stream);
  if (result != cudaSuccess) {
    cudaFree(memory);
    return cuda_status(cuda, result, what, error);
  }
  *out = memory;
  return IE_OK;
}

static void cuda_give(ie_device *device, void *memory, size_t bytes) {
  (void)bytes;
  if (memory && cuda_choose(cuda_of(device)) && cudaFree(memory) != cudaSuccess) cudaGetLastError();
}

void cuda_overlap(cuda_device *device, bool overlap) {
  device->queue.overlap = overlap;
  device->generation++; /* what was recorded, was so the other way */
}

void cuda_wgmma(cuda_device *device, ie_cuda_wgmma wanted) {
  device->queue.wgmma = ie_cuda_wgmma_loaded(&device->queue) ? wanted : IE_CUDA_WGMMA_NEVER;
  device->generation++;
}

ie_status cuda_pinned(cuda_device *device, size_t bytes, const char *what, void **out, ie_error *error) {
  cudaError_t result = cudaHostAlloc(out, bytes ? bytes : 1, cudaHostAllocDefault);
  if (result == cudaSuccess) return IE_OK;
  *out = NULL;
  if (result != cudaErrorMemoryAllocation) return cuda_status(device, result, what, error);
  cudaGetLastError();
  return ie_error_set(error, IE_OUT_OF_MEMORY,
                      "%s: out of memory of the host for %s: %zu pinned bytes are wanted", device->base.name,
                      what, bytes);
}

static ie_status cuda_copy(ie_device *device, void *to, const void *from, size_t bytes,
                           enum cudaMemcpyKind kind, ie_error *error) {
  cuda_device *cuda = cuda_of(device);
  ie_status status = cuda_enter(cuda, error);
  if (status != IE_OK) return status;
  cudaError_t result = cudaMemcpyAsync(to, from, bytes, kind, cuda->queue.stream);
  if (result == cudaSuccess) return cuda_wait(cuda, "a copy", error);
  return cuda_status(cuda, result, "a copy", error);
}

static ie_status cuda_read(ie_device *device, void *host, const void *from, size_t bytes, ie_error *error) {
  return cuda_copy(device, host, from, bytes, cudaMemcpyDeviceToHost, error);
}

static ie_status cuda_write(ie_device *device, void *to, const void *host, size_t bytes, ie_error *error) {
  return cuda_copy(device, to, host, bytes, cudaMemcpyHostToDevice, error);
}

static const ie_device_memory memory_calls = {.take = cuda_take,
                                              .give = cuda_give,
                                              .room = cuda_room,
                                              .read = cuda_read,
                                              .write = cuda_write,
                                              .hold = cuda_hold,
                                              .drop = cuda_drop,
                                              .runner_bytes = cuda_runner_bytes,
                                              .runner_new = cuda_runner_new,
                                              .runner_free = cuda_runner_free,
                                              .run = cuda_run,
                                              .draw_vocab_max = IE_CUDA_SAMPLE_VOCAB_MAX,
                                              .probe_read = cuda_probe_read,
                                              .probe_matrix = cuda_probe_matrix};

/* --- Opening ------------------------------------------------------------------------------------------------ */

bool ie_cuda_is_built(void) {
  return true;
}

/* CUDA's versions are 1000 * major + 10 * minor. */
static void version_text(int version, char out[16]) {
  snprintf(out, 16, "%d.%d", version / 1000, version % 1000 / 10);
}

static void driver_explain(cudaError_t result, char *why, size_t size) {
  int driver = 0, runtime = 0;
  char has[16], needs[16];
  if (result == cudaErrorNoDevice) {
    snprintf(why, size, "there is no NVIDIA GPU that CUDA can use");
    return;
  }
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) runtime = CUDART_VERSION;
  version_text(driver, has);
  version_text(runtime / 1000 * 1000, needs);
  if (result == cudaErrorInsufficientDriver && driver == 0)
    snprintf(why, size, "no NVIDIA driver is installed");
  else if (result == cudaErrorInsufficientDriver)
    snprintf(why, size, "the NVIDIA driver is too old: it has CUDA %s, this program needs %s", has, needs);
  else
    snprintf(why, size, "%s", cudaGetErrorString(result));
}

int ie_cuda_device_count(char *why, size_t size) {
  int count = 0;
  cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaSuccess && count == 0) result = cudaErrorNoDevice;
  if (result == cudaSuccess) return count;
  cudaGetLastError();
  driver_explain(result, why, size);
  return 0;
}

static void device_release(ie_device *base) {
  cuda_device *device = cuda_of(base);
  while (device->held) cuda_drop(base, device->held->owner);
  if (cuda_choose(device)) {
    if (device->fault) cudaFree(device->fault);
    if (device->done) cudaEventDestroy(device->done);
    if (device->queue.stream) cudaStreamDestroy(device->queue.stream);
    cudaGetLastError();
  }
  ie_team_free(base->team);
}

/* A kernel that does nothing, so that a chip that this program has no code for is refused here and by name. */
static ie_status code_check(cuda_device *device, ie_error *error) {
  cudaError_t result = ie_cuda_probe_empty(&device->queue);
  if (result == cudaErrorNoKernelImageForDevice) {
    cudaGetLastError();
    return ie_error_set(error, IE_DEVICE,
                        "%s has compute capability %d.%d; this program has code for " CLOCHER_CUDA_ARCHS,
                        device->base.name, device->queue.major, device->queue.minor);
  }
  ie_status status = cuda_status(device, result, "the first kernel", error);
  return status == IE_OK ? cuda_wait(device, "the first kernel", error) : status;
}

static ie_status device_start(cuda_device *device, int index, ie_error *error) {
  struct cudaDeviceProp properties;
  device->index = index;
  snprintf(device->base.name, sizeof device->base.name, "cuda:%d", index);
  cudaError_t result = cudaSetDevice(index);
  if (result == cudaSuccess) result = cudaGetDeviceProperties(&properties, index);
  if (result != cudaSuccess) return cuda_status(device, result, "it cannot be used", error);
  snprintf(device->base.name, sizeof device->base.name, "cuda:%d %.79s", index, properties.name);
  result = ie_cuda_queue_prepare(index, &device->queue);
  if (result == cudaSuccess) result = cudaStreamCreateWithFlags(&device->queue.stream, cudaStreamNonBlocking);
  if (result == cudaSuccess) result = cudaEventCreateWithFlags(&device->done, cudaEventDisableTiming);
  if (result != cudaSuccess) return cuda_status(device, result, "its stream", error);
  ie_status status = code_check(device, error);
  if (status != IE_OK) return status;
  return cuda_status(device, cudaMalloc((void **)&device->fault, sizeof *device->fault), "its memory", error);
}

ie_status ie_cuda_device_open(const ie_device_options *options, int index, ie_device **out, ie_error *error) {
  *out = NULL;
  char why[160] = "";
  int count = ie_cuda_device_count(why, sizeof why);
  if (count == 0)
    return ie_error_set(error, IE_DEVICE, "device '%s': %s", options->kind ? options->kind : "cuda", why);
  if (index >= count)
    return ie_error_set(error, IE_DEVICE, "device 'cuda:%d': this machine has %d, cuda:0 to cuda:%d", index,
                        count, count - 1);
  cuda_device *device = calloc(1, sizeof *device);
  if (!device) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a device");
  device->base.kind = "cuda";
  device->base.memory = &memory_calls;
  device->wait_s = wait_limit_s;
  ie_status status = ie_device_host_open(&device->base, options, error);
  if (status != IE_OK) {
    free(device);
    return status;
  }
  device->base.release = device_release;
  cuda_fill_elementwise(&device->base.ops);
  cuda_fill_products(&device->base.ops);
  cuda_fill_attention(&device->base.ops);
  status = device_start(device, index, error);
  if (status != IE_OK) {
    ie_device_free(&device->base);
    return status;
  }
  *out = &device->base;
  return IE_OK;
}
