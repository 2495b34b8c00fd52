#include "tensor/cpu_finite.h"

#include "base/size.h"

#include <stdatomic.h>

/* 256 KiB are read in about the time that waking the team takes twice. */
enum { PIECE = 1 << 14, SERIAL = 1 << 16 };

typedef struct finite_job {
  const ie_kernels *kernels;
  const real *x;
  int64_t n;
  _Atomic int64_t first; /* n: none */
} finite_job;

static void finite_pieces(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  finite_job *job = arg;
  int64_t from = begin * PIECE, to = ie_min_i64(end * PIECE, job->n);
  int64_t first = atomic_load_explicit(&job->first, memory_order_relaxed);
  if (from >= first) return; /* what is found there is not the first */
  int64_t at = job->kernels->find_nonfinite(job->x + from, to - from);
  if (at < 0) return;
  at += from;
  while (at < first && !atomic_compare_exchange_weak_explicit(&job->first, &first, at, memory_order_relaxed,
                                                              memory_order_relaxed))
    continue;
}

int64_t cpu_first_nonfinite(const ie_device *device, const real *x, int64_t n) {
  if (n <= SERIAL) return device->kernels.find_nonfinite(x, n);
  finite_job job = {.kernels = &device->kernels, .x = x, .n = n, .first = n};
  ie_team_for(device->team, ie_div_up(n, PIECE), /*chunk=*/1, finite_pieces, &job);
  int64_t first = atomic_load_explicit(&job.first, memory_order_relaxed);
  return first < n ? first : -1;
}
