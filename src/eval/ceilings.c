#include "base/clock.h"
#include "base/size.h"
#include "clocher/bench.h"
#include "kernels/peak.h"
#include "tensor/device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CACHE_LINE = 64 };

typedef struct read_job {
  uint8_t *data; /* (threads, part) */
  size_t part;   /* bytes of one thread */
  int streams;
  bool prefetch;
  uint64_t *sink; /* (threads, 8): one cache line each */
} read_job;

/* First touch by the thread that reads it, so that the pages lie on its node. */
static void fill_thread(void *arg, int thread, int threads) {
  read_job *job = arg;
  (void)threads;
  memset(job->data + (size_t)thread * job->part, thread + 1, job->part);
}

static void read_thread(void *arg, int thread, int threads) {
  read_job *job = arg;
  (void)threads;
  job->sink[8 * thread] ^=
      ie_peak_read(job->data + (size_t)thread * job->part, job->part, job->streams, job->prefetch);
}

/* The best of `passes` passes in GB/s. */
static double read_measure(ie_device *device, read_job *job, int passes) {
  double best = 0, bytes = (double)job->part * ie_team_size(device->team);
  for (int i = 0; i < passes; i++) {
    double start = ie_clock_s();
    ie_team_run(device->team, read_thread, job);
    double rate = bytes / (ie_clock_s() - start) * 1e-9;
    if (rate > best) best = rate;
  }
  return best;
}

static void patterns_measure(ie_device *device, read_job *job, const ie_read_options *o,
                             ie_read_ceiling *out) {
  static const int streams[] = {1, 2, 4, 8};
  size_t total = o->total_bytes ? o->total_bytes : (size_t)4 << 30;
  int passes = (int)ie_div_up((int64_t)total, (int64_t)out->buffer_bytes);
  for (int i = 0; i < IE_READ_PATTERNS; i++) {
    ie_read_pattern *p = &out->pattern[out->patterns];
    *p = (ie_read_pattern){.streams = streams[i / 2], .prefetch = i % 2 != 0};
    if (o->only && (p->streams != o->only->streams || p->prefetch != o->only->prefetch)) continue;
    job->streams = p->streams;
    job->prefetch = p->prefetch;
    p->gb_s = read_measure(device, job, passes);
    out->read_bytes += out->buffer_bytes * (size_t)passes;
    if (p->gb_s > out->pattern[out->best].gb_s) out->best = out->patterns;
    out->patterns++;
  }
}

ie_status ie_bench_read(ie_device *device, const ie_read_options *options, ie_read_ceiling *out,
                        ie_error *error) {
  static const ie_read_options defaults = {0};
  if (!options) options = &defaults;
  *out = (ie_read_ceiling){0};
  size_t threads = (size_t)ie_team_size(device->team), unit = (size_t)CACHE_LINE * IE_PEAK_STREAMS_MAX;
  size_t wanted = options->buffer_bytes ? options->buffer_bytes : (size_t)1 << 30;
  size_t part = wanted / threads / unit * unit, bytes = part * threads;
  if (part == 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "read ceiling: a buffer of %zu bytes for %zu threads",
                        wanted, threads);
  uint64_t *sink = calloc(threads, 8 * sizeof *sink);
  void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!sink || data == MAP_FAILED) {
    free(sink);
    if (data != MAP_FAILED) munmap(data, bytes);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "read ceiling: out of memory for a buffer of %zu bytes",
                        bytes);
  }
  /* fewer page walks; without huge pages the ceiling is what small pages give */
  madvise(data, bytes, MADV_HUGEPAGE);
  read_job job = {.data = data, .part = part, .sink = sink};
  out->buffer_bytes = bytes;
  ie_team_run(device->team, fill_thread, &job);
  patterns_measure(device, &job, options, out);
  munmap(data, bytes);
  free(sink);
  return IE_OK;
}

typedef struct matrix_job {
  ie_peak_fn run;
  int64_t rounds;
  double *operations; /* (threads, 8): one cache line each */
} matrix_job;

static void matrix_thread(void *arg, int thread, int threads) {
  matrix_job *job = arg;
  (void)threads;
  float sink;
  job->operations[8 * thread] = job->run(job->rounds, &sink);
  /* keeps the result of the loop alive */
  job->operations[8 * thread + 1] = (double)sink;
}

ie_status ie_bench_matrix(ie_device *device, ie_precision precision, ie_matrix_ceiling *out,
                          ie_error *error) {
  static const ie_class classes[] = {[IE_PRECISION_FP32] = IE_CLASS_F32,
                                     [IE_PRECISION_BF16] = IE_CLASS_BF16,
                                     [IE_PRECISION_FP16] = IE_CLASS_F16,
                                     [IE_PRECISION_INT8] = IE_CLASS_INT8};
  *out = (ie_matrix_ceiling){0};
  ie_peak peak;
  ie_peak_fill(&peak, device->kernels.isa);
  const ie_peak_matrix *m = &peak.matrix[classes[precision]];
  int threads = ie_team_size(device->team);
  matrix_job job = {.run = m->run, .rounds = 1000, .operations = calloc((size_t)threads, 8 * sizeof(double))};
  if (!job.operations) return ie_error_set(error, IE_OUT_OF_MEMORY, "matrix ceiling: out of memory");
  /* rounds are doubled until a run takes 50 ms; then three of those */
  for (int measured = 0; measured < 3;) {
    double start = ie_clock_s(), operations = 0;
    ie_team_run(device->team, matrix_thread, &job);
    double seconds = ie_clock_s() - start;
    for (int i = 0; i < threads; i++) operations += job.operations[8 * i];
    if (seconds < 0.05 && measured == 0) {
      job.rounds *= 2;
      continue;
    }
    measured++;
    if (operations / seconds * 1e-12 > out->tflop_s) out->tflop_s = operations / seconds * 1e-12;
  }
  out->kind = m->kind;
  free(job.operations);
  return IE_OK;
}
