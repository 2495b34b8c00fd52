/* Measuring: what this machine can do at most (the ceilings that bars are ratios of), what else was running, and
 * how much memory was used.
 *
 * Probes use the device's own pinned threads and kernel set, so that a ceiling and a run are measured by the same
 * hands. Take them right before and after a run; where the two differ by more than 5%, or other programs took more
 * than 5% of the processors, the run says little and should be repeated.
 *
 * Thread safety: a probe is an operation of its device, which runs one at a time. */
#ifndef CLOCHER_BENCH_H
#define CLOCHER_BENCH_H

#include "clocher/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* --- Memory ------------------------------------------------------------------------------------------------ */

enum { IE_PROBE_PATTERNS = 8 };

typedef struct ie_memory_probe {
  double read_gb_s;    /* the best pattern, 1e9 bytes a second, all threads together */
  char pattern[64];    /* that pattern: "4 streams per thread, prefetch 1024 B ahead" */
  size_t buffer_bytes; /* what was read, again and again; first touched by the threads that read it */
  size_t read_bytes;   /* per pattern */
  int patterns;
  struct {
    int streams;
    bool prefetch;
    double gb_s;
  } each[IE_PROBE_PATTERNS];
} ie_memory_probe;

typedef struct ie_memory_probe_options {
  size_t buffer_bytes; /* 0: 2 GiB, or half of what is available, 1 GiB at least: far more than any cache */
  size_t read_bytes;   /* 0: 4 GiB per pattern */
  /* May be NULL. Asked by all threads, between passes over the buffer: true ends the probe with IE_CANCELLED. */
  bool (*cancelled)(void *arg);
  void *cancelled_arg;
} ie_memory_probe_options;

/* Read bandwidth: each thread reads its own part as 1, 2, 4 or 8 streams, with and without prefetch 1 KiB ahead.
 * Takes about two seconds at 30 GB/s. The buffer counts into the peak of this process: see ie_usage_reset_peak.
 * options may be NULL. IE_LIMIT when there is not enough memory to measure memory. */
ie_status ie_probe_memory(ie_device *device, const ie_memory_probe_options *options, ie_memory_probe *out,
                          ie_error *error);

/* The same over the model's weights where they lie: buffer_bytes at most, in pieces of 8 MiB that are spread evenly
 * over all files, mapped as the model maps them (mappings of their own, so that what is resident does not change) and
 * read once before to have them in the page cache. Which memory the page cache got is not in our hands, and memory need
 * not be equally fast everywhere (docs/SPEED.md), so this may be less than the other. Files that are too small to
 * measure give read_gb_s = 0. */
ie_status ie_probe_weights(ie_model *model, const ie_memory_probe_options *options, ie_memory_probe *out,
                           ie_error *error);

/* --- Matrix units -------------------------------------------------------------------------------------------- */

enum { IE_PROBE_MATRIX_KINDS = 4 };

typedef struct ie_matrix_probe {
  double matrix_tflop_s; /* the ceiling for products of float classes: 1e12 a second, 2 per multiply-add */
  char matrix_kind[32];  /* what gives it: "amx-bf16", "avx512-f32", "avx2-f32", "scalar-f32" */
  double int8_tops;      /* for class int8, or 0 */
  char int8_kind[32];    /* "amx-int8", "avx512-vnni", or "" */
  int kinds;             /* everything that this kernel set can do, ceilings included */
  struct {
    char kind[32];
    double tera_s;
  } each[IE_PROBE_MATRIX_KINDS];
} ie_matrix_probe;

/* Multiply-adds from registers alone, all threads, the best of several tries of 50 ms. Cannot fail. */
void ie_probe_matrix(ie_device *device, ie_matrix_probe *out);

/* --- Disk ---------------------------------------------------------------------------------------------------- */

typedef struct ie_disk_probe {
  double sequential_gb_s; /* 1 MiB reads in order */
  double random_gb_s;     /* 1 MiB reads at random places, aligned to pages */
  bool direct;    /* O_DIRECT; false where the file system refuses it (then the page cache is emptied of
                             the file before reading, as far as the system obliges) */
  bool uring;     /* by io_uring, else by threads */
  int depth;      /* reads in flight */
  char file[256]; /* what was read; its end when the path is longer */
  size_t file_bytes, read_bytes, block_bytes;
} ie_disk_probe;

typedef struct ie_disk_probe_options {
  size_t read_bytes;   /* 0: 1 GiB for each of both, at most the file */
  int depth;           /* 0: what the stream of weights keeps in flight: 32 by io_uring, 8 by threads */
  size_t buffer_bytes; /* what may be taken for what is read; 0: 1 MiB a read. Less makes the reads smaller */
} ie_disk_probe_options;

/* By the reader that streams weights from disk, so that what a stream reaches is a share of this.
 * path is a file, or a folder: then its largest file, or, when that has less than 1 MiB, a temporary file of
 * 256 MiB (read_bytes, when that is less) that is written there and removed. options may be NULL. */
ie_status ie_probe_disk(const char *path, const ie_disk_probe_options *options, ie_disk_probe *out,
                        ie_error *error);

/* --- Other programs ------------------------------------------------------------------------------------------- */

/* A moment. */
typedef struct ie_load_mark {
  double wall_s, busy_s, steal_s, own_s;
} ie_load_mark;

/* Since that moment. Resolution is that of /proc/stat, 10 ms a processor. */
typedef struct ie_load {
  double wall_s;
  double foreign_cpu_s; /* processor seconds of everything but this process, interrupts included */
  double steal_s;       /* processor seconds that the hypervisor gave to others */
  double foreign_share; /* foreign_cpu_s over wall_s times processors */
} ie_load;

void ie_load_begin(ie_load_mark *mark);
void ie_load_since(const ie_load_mark *mark, ie_load *out);

/* --- Memory of this process ----------------------------------------------------------------------------------- */

typedef struct ie_usage {
  size_t rss_bytes,
      peak_rss_bytes;     /* VmRSS and VmHWM of /proc/self/status; mapped files count where touched */
  size_t anonymous_bytes; /* of rss: memory that is no file (RssAnon) */
  size_t cgroup_bytes, cgroup_peak_bytes; /* of the control group, or 0 where it cannot be read */
} ie_usage;

void ie_usage_read(ie_usage *out);
/* Lowers VmHWM to what is resident now, so that a probe's buffer does not count into a run. False where the system
 * does not let us. */
bool ie_usage_reset_peak(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
