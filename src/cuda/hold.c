/* Copies of the host's weights. All ranges of one owner lie in one block of device memory, each at a multiple of 256
 * bytes. They are copied through a ring of pinned buffers: while one is on its way the team fills the next, each thread
 * a part of it, so that page faults of a mapped file, and reads of one that is not in memory yet, run in parallel. */
#include "cuda/cuda.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { RING = 4, FILL_CHUNK = 1 << 20 };
static const size_t slot_bytes = (size_t)32 << 20;

/* --- The table ------------------------------------------------------------------------------------------------ */

static int range_compare(const void *a, const void *b) {
  uintptr_t x = (uintptr_t)((const ie_host_range *)a)->data, y = (uintptr_t)((const ie_host_range *)b)->data;
  return (x > y) - (x < y);
}

/* Index of the last range that begins at or before `host`, or -1. */
static int64_t range_before(const cuda_held *held, const uint8_t *host) {
  int64_t low = 0, high = (int64_t)held->count;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if ((uintptr_t)held->range[middle].host <= (uintptr_t)host)
      low = middle + 1;
    else
      high = middle;
  }
  return low - 1;
}

const void *cuda_held_find(const cuda_device *device, const void *host) {
  for (const cuda_held *held = device->held; held && host; held = held->next) {
    int64_t i = range_before(held, host);
    if (i < 0) continue;
    size_t inside = (size_t)((const uint8_t *)host - held->range[i].host);
    if (inside < held->range[i].bytes) return held->base + held->range[i].at + inside;
  }
  return NULL;
}

/* The places of n ranges, sorted; NULL when memory is out. */
static cuda_held *held_make(const void *owner, const ie_host_range *range, size_t n) {
  cuda_held *held = calloc(1, sizeof *held);
  ie_host_range *sorted = malloc(n * sizeof *sorted);
  if (held) held->range = calloc(n, sizeof *held->range);
  if (!held || !sorted || !held->range) {
    if (held) free(held->range);
    free(held);
    free(sorted);
    return NULL;
  }
  memcpy(sorted, range, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, range_compare);
  held->owner = owner;
  for (size_t i = 0; i < n; i++) {
    if (sorted[i].bytes == 0) continue;
    size_t k = held->count++;
    held->range[k].host = sorted[i].data;
    held->range[k].bytes = sorted[i].bytes;
    held->range[k].at = held->bytes;
    held->bytes += ie_size_align(sorted[i].bytes, CUDA_ALIGN);
  }
  free(sorted);
  return held;
}

static void held_free(cuda_device *device, cuda_held *held) {
  device->base.memory->give(&device->base, held->base, held->bytes);
  free(held->range);
  free(held);
}

/* --- Copying -------------------------------------------------------------------------------------------------- */

typedef struct fill_job {
  const cuda_held *held;
  uint8_t *to;  /* a pinned buffer, or part of one */
  size_t first; /* of the block, where the buffer begins */
} fill_job;

/* Bytes begin .. end of a buffer: the parts of the ranges that lie there; between them it keeps what it had. */
static void fill_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const fill_job *job = arg;
  const cuda_held *held = job->held;
  size_t from = job->first + (size_t)begin, to = job->first + (size_t)end, low = 0, high = held->count;
  while (low < high) { /* the first range that ends beyond `from` */
    size_t middle = low + (high - low) / 2;
    if (held->range[middle].at + held->range[middle].bytes > from)
      high = middle;
    else
      low = middle + 1;
  }
  for (size_t i = low; i < held->count && held->range[i].at < to; i++) {
    size_t a = held->range[i].at > from ? held->range[i].at : from;
    size_t b = held->range[i].at + held->range[i].bytes < to ? held->range[i].at + held->range[i].bytes : to;
    memcpy(job->to + (a - job->first), held->range[i].host + (a - held->range[i].at), b - a);
  }
}

typedef struct staging {
  uint8_t *memory; /* (RING, slot_bytes) pinned */
  size_t bytes;    /* of a slot */
  cudaEvent_t sent[RING];
} staging;

static void staging_close(staging *s) {
  for (int i = 0; i < RING; i++)
    if (s->sent[i]) cudaEventDestroy(s->sent[i]);
  if (s->memory) cudaFreeHost(s->memory);
}

static ie_status staging_open(cuda_device *device, size_t most, staging *s, ie_error *error) {
  *s = (staging){.bytes = most < slot_bytes ? ie_size_align(most, CUDA_ALIGN) : slot_bytes};
  ie_status status = cuda_pinned(device, RING * s->bytes, "copying weights", (void **)&s->memory, error);
  cudaError_t result = cudaSuccess;
  for (int i = 0; i < RING && status == IE_OK && result == cudaSuccess; i++)
    result = cudaEventCreateWithFlags(&s->sent[i], cudaEventDisableTiming);
  return status == IE_OK ? cuda_status(device, result, "copying weights", error) : status;
}

/* One buffer's worth of the block, from byte `at`: filled when the copy before it from there has gone. */
static ie_status slot_send(cuda_device *device, const cuda_held *held, const staging *s, size_t at,
                           ie_error *error) {
  size_t i = at / s->bytes, slot = i % RING, n = held->bytes - at < s->bytes ? held->bytes - at : s->bytes;
  fill_job job = {.held = held, .to = s->memory + slot * s->bytes, .first = at};
  if (i >= RING) {
    ie_status status = cuda_wait_for(device, s->sent[slot], "copying weights", error);
    if (status != IE_OK) return status;
  }
  ie_team_for(device->base.team, (int64_t)n, FILL_CHUNK, fill_part, &job);
  cudaError_t result =
      cudaMemcpyAsync(held->base + at, job.to, n, cudaMemcpyHostToDevice, device->queue.stream);
  if (result == cudaSuccess) result = cudaEventRecord(s->sent[slot], device->queue.stream);
  return cuda_status(device, result, "copying weights", error);
}

static ie_status held_copy(cuda_device *device, const cuda_held *held, ie_error *error) {
  staging s;
  ie_status status = staging_open(device, held->bytes, &s, error);
  if (status != IE_OK) {
    staging_close(&s);
    return status;
  }
  for (size_t at = 0; at < held->bytes && status == IE_OK; at += s.bytes)
    status = slot_send(device, held, &s, at, error);
  if (!device->lost) { /* also after a failure: nothing may be under way when the buffers go */
    ie_status done = cuda_wait(device, "copying weights", status == IE_OK ? error : NULL);
    if (status == IE_OK) status = done;
  }
  if (!device->lost) staging_close(&s);
  return status;
}

ie_status cuda_hold(ie_device *base, const void *owner, const ie_host_range *range, size_t n,
                    ie_error *error) {
  cuda_device *device = cuda_of(base);
  if (n == 0) return IE_OK;
  cuda_held *held = held_make(owner, range, n);
  if (!held) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a table of %zu weights", n);
  ie_status status = base->memory->take(base, held->bytes, "weights", (void **)&held->base, error);
  if (status == IE_OK) status = held_copy(device, held, error);
  if (status != IE_OK) {
    held_free(device, held);
    return status;
  }
  held->next = device->held;
  device->held = held;
  device->generation++;
  return IE_OK;
}

void cuda_drop(ie_device *base, const void *owner) {
  cuda_device *device = cuda_of(base);
  for (cuda_held **at = &device->held; *at;) {
    cuda_held *held = *at;
    if (held->owner != owner) {
      at = &held->next;
      continue;
    }
    *at = held->next;
    held_free(device, held);
    device->generation++;
  }
}
