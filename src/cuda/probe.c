/* What the chip can do: the ceilings that shares are printed of. Kernels of their own, timed by events. */
#include "cuda/cuda.h"

#include "base/size.h"

#include <stdio.h>

enum { PROBE_TRIES = 8, ROUNDS_MOST = 1 << 20, ROUNDS_GROW = 64 };
static const float matrix_ms = 20;                        /* that one try should take */
static const size_t read_bytes_default = (size_t)2 << 30; /* far more than the L2 */

/* Milliseconds of the best of several tries of `launch`. */
typedef cudaError_t (*probe_fn)(const ie_cuda_queue *queue, void *arg);

static ie_status try_ms(cuda_device *device, const cudaEvent_t event[2], probe_fn launch, void *arg,
                        const char *what, float *ms, ie_error *error) {
  cudaStream_t stream = device->queue.stream;
  cudaError_t result = cudaEventRecord(event[0], stream);
  if (result == cudaSuccess) result = launch(&device->queue, arg);
  if (result == cudaSuccess) result = cudaEventRecord(event[1], stream);
  ie_status status = cuda_status(device, result, what, error);
  if (status == IE_OK) status = cuda_wait_for(device, event[1], what, error);
  if (status != IE_OK) return status;
  return cuda_status(device, cudaEventElapsedTime(ms, event[0], event[1]), what, error);
}

static ie_status best_ms(cuda_device *device, probe_fn launch, void *arg, const char *what, float *best,
                         ie_error *error) {
  cudaEvent_t event[2] = {NULL, NULL};
  cudaError_t result = cudaEventCreate(&event[0]);
  if (result == cudaSuccess) result = cudaEventCreate(&event[1]);
  ie_status status = cuda_status(device, result, what, error);
  *best = 0;
  for (int i = 0; i < PROBE_TRIES && status == IE_OK; i++) {
    float ms = 0;
    status = try_ms(device, event, launch, arg, what, &ms, error);
    if (i > 0 && (*best == 0 || ms < *best)) *best = ms; /* the first one loads code and wakes the clocks */
  }
  for (int i = 0; i < 2; i++)
    if (event[i] && !device->lost) cudaEventDestroy(event[i]);
  return status;
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
    status = best_ms(device, read_launch, &job, "the read probe", &ms, error);
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
  status = best_ms(device, matrix_launch, &job, "the matrix probe", &ms, error);
  /* A short try is mostly its launch, and says too little of how many rounds a long one needs. */
  while (status == IE_OK && ms < matrix_ms / 2 && job.rounds < ROUNDS_MOST) {
    double grow = ms > 0 ? (double)(matrix_ms / ms) : ROUNDS_GROW;
    job.rounds = (int64_t)((double)job.rounds * (grow < ROUNDS_GROW ? grow : ROUNDS_GROW));
    job.rounds = ie_min_i64(job.rounds, ROUNDS_MOST);
    status = best_ms(device, matrix_launch, &job, "the matrix probe", &ms, error);
  }
  out->matrix_tflop_s = rate(job.flop, ms, 1e12);
  snprintf(out->matrix_kind, sizeof out->matrix_kind, "%s",
           device->queue.wgmma != IE_CUDA_WGMMA_NEVER ? "wgmma-bf16" : "mma-bf16");
  base->memory->give(base, sink, sizeof(float));
  return status;
}
