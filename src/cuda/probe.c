/* What the chip can do: the ceilings that shares are printed of. Kernels of their own, timed by events. */
#include "cuda/cuda.h"

#include "base/size.h"

#include <stdio.h>

enum { PROBE_TRIES = 8, ROUNDS_MOST = 4096 };
static const float matrix_ms = 20;                        /* that one try should take */
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
  int64_t rounds;
  double flop;
} matrix_job;

static cudaError_t matrix_launch(const ie_cuda_queue *queue, void *arg) {
  matrix_job *job = arg;
  return ie_cuda_probe_matrix(queue, job->rounds, job->sink, &job->flop);
}

static double rate(double amount, float ms, double unit) {
  return ms > 0 ? amount / (1e-3 * (double)ms) / unit : 0;
}

ie_status cuda_probe_read(ie_device *base, size_t buffer_bytes, ie_ceilings *out, ie_error *error) {
  cuda_device *device = cuda_of(base);
  size_t room, total, bytes = buffer_bytes ? buffer_bytes : read_bytes_default;
  base->memory->room(base, &room, &total);
  if (bytes > room / 2) bytes = room / 2;
  bytes = bytes / CUDA_ALIGN * CUDA_ALIGN;
  void *memory = NULL, *sink = NULL;
  ie_status status = base->memory->take(base, bytes, "the read probe", &memory, error);
  if (status == IE_OK) status = base->memory->take(base, sizeof(float), "the read probe", &sink, error);
  if (status == IE_OK) {
    float ms = 0;
    read_job job = {memory, bytes, sink};
    status = cuda_status(device, best_ms(device, read_launch, &job, &ms), "the read probe", error);
    out->read_gb_s = rate((double)bytes, ms, 1e9);
    out->buffer_bytes = bytes;
  }
  base->memory->give(base, sink, sizeof(float));
  base->memory->give(base, memory, bytes);
  return status;
}

ie_status cuda_probe_matrix(ie_device *base, ie_ceilings *out, ie_error *error) {
  cuda_device *device = cuda_of(base);
  void *sink = NULL;
  float ms = 0;
  ie_status status = base->memory->take(base, sizeof(float), "the matrix probe", &sink, error);
  if (status != IE_OK) return status;
  matrix_job job = {.sink = sink, .rounds = 1};
  cudaError_t result = best_ms(device, matrix_launch, &job, &ms);
  double most = ms > 0 ? (double)(matrix_ms / ms) : ROUNDS_MOST;
  job.rounds = most < 1 ? 1 : most > ROUNDS_MOST ? ROUNDS_MOST : (int64_t)most;
  if (result == cudaSuccess && job.rounds > 1) result = best_ms(device, matrix_launch, &job, &ms);
  out->matrix_tflop_s = rate(job.flop, ms, 1e12);
  snprintf(out->matrix_kind, sizeof out->matrix_kind, "%s",
           device->queue.wgmma != IE_CUDA_WGMMA_NEVER ? "wgmma-bf16" : "mma-bf16");
  base->memory->give(base, sink, sizeof(float));
  return cuda_status(device, result, "the matrix probe", error);
}
