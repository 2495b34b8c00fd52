/* What the chip can do: the ceilings that shares are printed of. Kernels of their own, timed by events. */
#include "cuda/cuda.h"

#include "base/size.h"

#include <stdio.h>

enum { PROBE_TRIES = 8, MATRIX_ROUNDS = 4096 };
static const size_t read_bytes_default = (size_t)2 << 30; /* far more than the L2 */

/* Milliseconds of the best of several tries of `launch`. */
typedef cudaError_t (*probe_fn)(const ie_cuda_queue *queue, void *arg);

static cudaError_t best_ms(cuda_device *device, probe_fn launch, void *arg, float *best) {
  cudaEvent_t begin = NULL, end = NULL;
  cudaStream_t stream = device->queue.stream;
  cudaError_t result = cudaEventCreate(&begin);
  if (result == cudaSuccess) result = cudaEventCreate(&end);
  *best = 0;
  for (int i = 0; i < PROBE_TRIES && result == cudaSuccess; i++) {
    float ms = 0;
    result = cudaEventRecord(begin, stream);
    if (result == cudaSuccess) result = launch(&device->queue, arg);
    if (result == cudaSuccess) result = cudaEventRecord(end, stream);
    if (result == cudaSuccess) result = cudaEventSynchronize(end);
    if (result == cudaSuccess) result = cudaEventElapsedTime(&ms, begin, end);
    if (i > 0 && (*best == 0 || ms < *best)) *best = ms; /* the first one loads code and wakes the clocks */
  }
  if (begin) cudaEventDestroy(begin);
  if (end) cudaEventDestroy(end);
  return result;
}

typedef struct read_job {
  const void *data;
  size_t bytes;
  float *sink;
} read_job;

static cudaError_t read_launch(const ie_cuda_queue *queue, void *arg) {
  const read_job *job = arg;
  return ie_cuda_probe_read(queue, job->data, job->bytes, job->sink);
}

typedef struct matrix_job {
  float *sink;
  double flop;
} matrix_job;

static cudaError_t matrix_launch(const ie_cuda_queue *queue, void *arg) {
  matrix_job *job = arg;
  return ie_cuda_probe_matrix(queue, MATRIX_ROUNDS, job->sink, &job->flop);
}

static double rate(double amount, float ms, double unit) {
  return ms > 0 ? amount / (1e-3 * (double)ms) / unit : 0;
}

ie_status cuda_probe(ie_device *base, size_t buffer_bytes, ie_ceilings *out, ie_error *error) {
  cuda_device *device = cuda_of(base);
  *out = (ie_ceilings){.buffer_bytes = buffer_bytes ? buffer_bytes : read_bytes_default};
  size_t room, total;
  base->memory->room(base, &room, &total);
  if (out->buffer_bytes > room / 2) out->buffer_bytes = room / 2;
  out->buffer_bytes = out->buffer_bytes / CUDA_ALIGN * CUDA_ALIGN;
  void *memory = NULL, *sink = NULL;
  ie_status status = base->memory->take(base, out->buffer_bytes, "the read probe", &memory, error);
  if (status == IE_OK) status = base->memory->take(base, sizeof(float), "the probes", &sink, error);
  if (status == IE_OK) {
    float ms = 0;
    read_job reads = {memory, out->buffer_bytes, sink};
    matrix_job products = {.sink = sink};
    cudaError_t result = best_ms(device, read_launch, &reads, &ms);
    out->read_gb_s = rate((double)out->buffer_bytes, ms, 1e9);
    if (result == cudaSuccess) result = best_ms(device, matrix_launch, &products, &ms);
    out->matrix_tflop_s = rate(products.flop, ms, 1e12);
    snprintf(out->matrix_kind, sizeof out->matrix_kind, "mma-bf16");
    status = cuda_status(device, result, "a probe", error);
  }
  base->memory->give(base, sink, sizeof(float));
  base->memory->give(base, memory, out->buffer_bytes);
  return status;
}
