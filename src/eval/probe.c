/* Probes of memory, matrix units and other programs (clocher/bench.h). The disk has a file of its own. */
#include "kernels/probe.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/size.h"
#include "clocher/bench.h"
#include "models/arch.h"
#include "tensor/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* --- Memory ------------------------------------------------------------------------------------------------ */

enum {
  TOUCH_BYTES = 64 << 20, /* some ten milliseconds of page faults */
  PIECE_BYTES = 8 << 20,  /* of weights; less where no file has as much */
};
static const size_t probe_most_bytes = (size_t)2 << 30, probe_least_bytes = (size_t)1 << 30;

typedef struct memory_job {
  const ie_probe_loops *loops;
  const uint8_t *buffer;
  size_t part_bytes;      /* of one thread */
  const uint8_t **pieces; /* instead of a buffer: (piece_count) places, for whichever thread is free */
  int64_t piece_count;
  size_t piece_bytes;
  int streams;
  bool prefetch;
  int passes;
  const ie_memory_probe_options *options;
  uint64_t digest[IE_TEAM_MAX];
} memory_job;

static bool memory_cancelled(const memory_job *job) {
  return job->options->cancelled && job->options->cancelled(job->options->cancelled_arg);
}

/* First touch by the thread that will read it: on a machine with several memory nodes pages lie near it. */
static void memory_touch(void *arg, int thread, int threads) {
  (void)threads;
  memory_job *job = arg;
  uint8_t *part = (uint8_t *)(uintptr_t)job->buffer + (size_t)thread * job->part_bytes;
  for (size_t at = 0; at < job->part_bytes && !memory_cancelled(job); at += TOUCH_BYTES) {
    size_t left = job->part_bytes - at;
    memset(part + at, thread + 1, left < TOUCH_BYTES ? left : TOUCH_BYTES);
  }
}

static void memory_read(void *arg, int thread, int threads) {
  (void)threads;
  memory_job *job = arg;
  const uint8_t *part = job->buffer + (size_t)thread * job->part_bytes;
  uint64_t digest = 0;
  for (int pass = 0; pass < job->passes && !memory_cancelled(job); pass++)
    digest += job->loops->read(part, job->part_bytes, job->streams, job->prefetch);
  job->digest[thread] = digest;
}

static void memory_pieces_read(void *arg, int thread, int64_t begin, int64_t end) {
  memory_job *job = arg;
  for (int64_t i = begin; i < end && !memory_cancelled(job); i++)
    job->digest[thread] ^= job->loops->read(job->pieces[i], job->piece_bytes, job->streams, job->prefetch);
}

static void memory_pass(ie_team *team, memory_job *job) {
  if (job->pieces == NULL) {
    ie_team_run(team, memory_read, job);
    return;
  }
  for (int pass = 0; pass < job->passes; pass++)
    ie_team_for(team, job->piece_count, /*chunk=*/1, memory_pieces_read, job);
}

static ie_status memory_size(const ie_memory_probe_options *options, size_t *bytes, ie_error *error) {
  *bytes = options->buffer_bytes;
  if (*bytes > 0) return IE_OK;
  size_t available = ie_memory_available();
  *bytes = available / 2 < probe_most_bytes ? available / 2 : probe_most_bytes;
  if (*bytes >= probe_least_bytes) return IE_OK;
  return ie_error_set(
      error, IE_LIMIT,
      "memory probe: %zu MiB of memory are available, at least %zu are needed to read past caches",
      available >> 20, 2 * probe_least_bytes >> 20);
}

/* Each pattern over what the job reads, `bytes` a pass; the best one is the result. */
static ie_status memory_patterns(ie_team *team, memory_job *job, size_t bytes, ie_memory_probe *out,
                                 ie_error *error) {
  size_t wanted = job->options->read_bytes ? job->options->read_bytes : (size_t)4 << 30;
  job->passes = (int)((wanted + bytes - 1) / bytes);
  for (int i = 0; i < IE_PROBE_PATTERNS && !memory_cancelled(job); i++) {
    job->streams = 1 << (i / 2);
    job->prefetch = i % 2;
    double start = ie_clock_s();
    memory_pass(team, job);
    double gb_s = 1e-9 * (double)bytes * job->passes / (ie_clock_s() - start);
    out->each[i].streams = job->streams, out->each[i].prefetch = job->prefetch, out->each[i].gb_s = gb_s;
    if (gb_s <= out->read_gb_s) continue;
    out->read_gb_s = gb_s;
    snprintf(out->pattern, sizeof out->pattern, "%d stream%s per thread, %s", job->streams,
             job->streams == 1 ? "" : "s", job->prefetch ? "prefetch 1024 B ahead" : "no prefetch");
  }
  out->patterns = IE_PROBE_PATTERNS;
  out->buffer_bytes = bytes;
  out->read_bytes = bytes * (size_t)job->passes;
  if (!memory_cancelled(job)) return IE_OK;
  memset(out, 0, sizeof *out); /* some of the figures are not true */
  return ie_error_set(error, IE_CANCELLED, "memory probe: cancelled");
}

static const ie_memory_probe_options memory_defaults = {0};

ie_status ie_probe_memory(ie_device *device, const ie_memory_probe_options *options, ie_memory_probe *out,
                          ie_error *error) {
  if (!options) options = &memory_defaults;
  memset(out, 0, sizeof *out);
  size_t bytes, threads = (size_t)ie_team_size(device->team);
  ie_status status = memory_size(options, &bytes, error);
  if (status != IE_OK) return status;
  ie_probe_loops loops;
  ie_probe_loops_fill(&loops, device->kernels.isa);
  memory_job job = {
      .loops = &loops, .options = options, .part_bytes = bytes / threads / IE_PROBE_STRIDE * IE_PROBE_STRIDE};
  if (job.part_bytes == 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "memory probe: a buffer of %zu bytes is too small for %zu threads", bytes, threads);
  bytes = job.part_bytes * threads;
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "memory probe: %zu MiB: %s", bytes >> 20, strerror(errno));
  madvise(memory, bytes,
          MADV_HUGEPAGE); /* the ceiling is the best that reads can do; a refusal costs little */
  job.buffer = memory;
  ie_team_run(device->team, memory_touch, &job);
  status = memory_patterns(device->team, &job, bytes, out, error);
  munmap(memory, bytes);
  return status;
}

static int64_t pieces_count(const ie_map *maps, size_t files, size_t piece_bytes) {
  int64_t count = 0;
  for (size_t i = 0; i < files; i++) count += (int64_t)(maps[i].size / piece_bytes);
  return count;
}

/* The places to read: job->piece_count of `whole` ones, equally far apart. */
static void pieces_spread(memory_job *job, const ie_map *maps, size_t files, int64_t whole) {
  size_t file = 0;
  int64_t first = 0; /* number of the file's first piece */
  for (int64_t i = 0; i < job->piece_count; i++) {
    int64_t at = i * whole / job->piece_count;
    while (file + 1 < files && at - first >= (int64_t)(maps[file].size / job->piece_bytes))
      first += (int64_t)(maps[file++].size / job->piece_bytes);
    job->pieces[i] = maps[file].data + (size_t)(at - first) * job->piece_bytes;
  }
}

static ie_status weights_probe(ie_team *team, const ie_map *maps, size_t files, memory_job *job,
                               ie_memory_probe *out, ie_error *error) {
  job->piece_bytes = PIECE_BYTES;
  while (job->piece_bytes > IE_PROBE_STRIDE && pieces_count(maps, files, job->piece_bytes) == 0)
    job->piece_bytes /= 2;
  int64_t whole = pieces_count(maps, files, job->piece_bytes);
  size_t most = job->options->buffer_bytes ? job->options->buffer_bytes : probe_most_bytes;
  job->piece_count = ie_min_i64(whole, (int64_t)(most / job->piece_bytes));
  if (job->piece_count == 0) return IE_OK;
  job->pieces = malloc((size_t)job->piece_count * sizeof *job->pieces);
  if (!job->pieces)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "memory probe: no memory for %lld places",
                        (long long)job->piece_count);
  pieces_spread(job, maps, files, whole);
  memory_pass(team, job); /* brings the pages in */
  ie_status status = memory_patterns(team, job, (size_t)job->piece_count * job->piece_bytes, out, error);
  free(job->pieces);
  return status;
}

ie_status ie_probe_weights(ie_model *model, const ie_memory_probe_options *options, ie_memory_probe *out,
                           ie_error *error) {
  memset(out, 0, sizeof *out);
  size_t files = ie_checkpoint_file_count(model->checkpoint), open = 0;
  ie_map *maps = calloc(files > 0 ? files : 1, sizeof *maps);
  if (!maps) return ie_error_set(error, IE_OUT_OF_MEMORY, "memory probe: no memory for %zu files", files);
  ie_status status = IE_OK;
  for (; status == IE_OK && open < files; open += status == IE_OK) {
    size_t bytes; /* what it was when the model was opened */
    const char *path = ie_checkpoint_file_at(model->checkpoint, open, &bytes);
    status = ie_map_open(path, &maps[open], error);
  }
  ie_probe_loops loops;
  ie_probe_loops_fill(&loops, model->device->kernels.isa);
  memory_job job = {
      .loops = &loops, .options = options ? options : &memory_defaults, .passes = 1, .streams = 1};
  if (status == IE_OK) status = weights_probe(model->device->team, maps, files, &job, out, error);
  for (size_t i = 0; i < open; i++) ie_map_close(&maps[i]);
  free(maps);
  return status;
}

/* --- Matrix units -------------------------------------------------------------------------------------------- */

typedef struct matrix_job {
  double (*run)(int64_t rounds);
  int64_t rounds;
  double operations[IE_TEAM_MAX];
} matrix_job;

static void matrix_run(void *arg, int thread, int threads) {
  (void)threads;
  matrix_job *job = arg;
  job->operations[thread] = job->run(job->rounds);
}

/* Operations a second, in 1e12, of one loop on all threads. */
static double matrix_measure(ie_team *team, const ie_probe_matrix_loop *loop) {
  matrix_job job = {.run = loop->run, .rounds = 1 << 14};
  double best = 0;
  for (int attempt = 0; attempt < 6; attempt++) {
    double start = ie_clock_s();
    ie_team_run(team, matrix_run, &job);
    double took = ie_clock_s() - start, sum = 0;
    for (int t = 0; t < ie_team_size(team); t++) sum += job.operations[t];
    /* The first attempt says how many rounds 50 ms are, and wakes the units: they start at reduced speed. */
    if (attempt == 0)
      job.rounds = (int64_t)((double)job.rounds * (took > 0 ? 0.05 / took : 1)) + 1;
    else if (sum / took > best)
      best = sum / took;
  }
  return best * 1e-12;
}

void ie_probe_matrix(ie_device *device, ie_matrix_probe *out) {
  memset(out, 0, sizeof *out);
  ie_probe_loops loops;
  ie_probe_loops_fill(&loops, device->kernels.isa);
  for (int i = 0; i < loops.matrix_count; i++) {
    const ie_probe_matrix_loop *loop = &loops.matrix[i];
    double tera = matrix_measure(device->team, loop);
    out->each[i].tera_s = tera;
    snprintf(out->each[i].kind, sizeof out->each[i].kind, "%s", loop->kind);
    double *best = loop->integer ? &out->int8_tops : &out->matrix_tflop_s;
    if (tera <= *best) continue;
    *best = tera;
    snprintf(loop->integer ? out->int8_kind : out->matrix_kind, sizeof out->matrix_kind, "%s", loop->kind);
  }
  out->kinds = loops.matrix_count;
}

/* --- Other programs ------------------------------------------------------------------------------------------- */

void ie_load_begin(ie_load_mark *mark) {
  memset(mark, 0, sizeof *mark);
  mark->wall_s = ie_clock_s();
  FILE *file = fopen("/proc/stat", "re");
  if (file) {
    /* proc(5): user nice system idle iowait irq softirq steal, in ticks, summed over processors. */
    unsigned long long t[8] = {0};
    if (fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5],
               &t[6], &t[7]) == 8) {
      double tick_s = 1.0 / (double)sysconf(_SC_CLK_TCK);
      mark->busy_s = tick_s * (double)(t[0] + t[1] + t[2] + t[5] + t[6]);
      mark->steal_s = tick_s * (double)t[7];
    }
    fclose(file);
  }
  struct rusage own;
  if (getrusage(RUSAGE_SELF, &own) == 0)
    mark->own_s = (double)own.ru_utime.tv_sec + 1e-6 * (double)own.ru_utime.tv_usec +
                  (double)own.ru_stime.tv_sec + 1e-6 * (double)own.ru_stime.tv_usec;
}

void ie_load_since(const ie_load_mark *mark, ie_load *out) {
  ie_load_mark now;
  ie_load_begin(&now);
  double foreign = (now.busy_s - mark->busy_s) - (now.own_s - mark->own_s);
  double processors = (double)sysconf(_SC_NPROCESSORS_ONLN);
  memset(out, 0, sizeof *out);
  out->wall_s = now.wall_s - mark->wall_s;
  out->foreign_cpu_s = foreign > 0 ? foreign : 0;
  out->steal_s = now.steal_s > mark->steal_s ? now.steal_s - mark->steal_s : 0;
  if (out->wall_s > 0 && processors > 0) out->foreign_share = out->foreign_cpu_s / (out->wall_s * processors);
}
