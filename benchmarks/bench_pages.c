/* Memory that is not equally fast everywhere: a guest of a virtual machine cannot see on which of the host's memory
 * nodes its pages lie, but it can measure. Reads are timed for each 2 MiB, by all threads, half each.
 *
 *   bench_pages files FILE...     how fast the page cache's memory of these files is: mean and histogram
 *   bench_pages hold COMMAND...   takes all free memory, gives back what is fast, runs COMMAND while it keeps the slow
 *                                 rest, so that the command's page cache and buffers come to lie in fast memory
 *
 * `hold` is for measurements: it tells apart what a program loses from what the place of its weights loses. Free the
 * page cache of the files first (dd if=FILE iflag=nocache count=0), and read them in COMMAND. */
#include "base/clock.h"
#include "base/file.h"
#include "clocher/bench.h"
#include "kernels/probe.h"
#include "tensor/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WINDOW = 2 << 20, PASSES = 3, SLOTS = 50 };

typedef struct window_job {
  const ie_probe_loops *loops;
  const uint8_t *window;
  uint64_t digest[IE_TEAM_MAX];
} window_job;

static void window_read(void *arg, int thread, int threads) {
  window_job *job = arg;
  size_t part = WINDOW / (size_t)threads / IE_PROBE_STRIDE * IE_PROBE_STRIDE;
  job->digest[thread] ^= job->loops->read(job->window + (size_t)thread * part, part, 4, true);
}

/* The best of some passes for each window. A pass goes over all of them, so that no cache helps. */
static void windows_measure(ie_device *device, const uint8_t *memory, size_t count, float *gb_s) {
  ie_probe_loops loops;
  ie_probe_loops_fill(&loops, device->kernels.isa);
  window_job job = {.loops = &loops};
  memset(gb_s, 0, count * sizeof *gb_s);
  for (int pass = 0; pass <= PASSES; pass++) {
    for (size_t i = 0; i < count; i++) {
      job.window = memory + i * WINDOW;
      double start = ie_clock_s();
      ie_team_run(device->team, window_read, &job);
      float now = (float)(1e-9 * WINDOW / (ie_clock_s() - start));
      if (pass > 0 && now > gb_s[i]) gb_s[i] = now; /* the first one brings the pages in */
    }
  }
}

static void windows_print(const char *name, const float *gb_s, size_t count) {
  size_t slot[SLOTS] = {0};
  double seconds = 0;
  for (size_t i = 0; i < count; i++) {
    seconds += 1e-9 * WINDOW / (double)gb_s[i];
    slot[gb_s[i] < SLOTS - 1 ? (size_t)gb_s[i] : SLOTS - 1]++;
  }
  printf("%s: %zu MiB, %.2f GB/s in the mean; MiB by GB/s:", name, count * WINDOW >> 20,
         1e-9 * WINDOW * (double)count / seconds);
  for (int i = 0; i < SLOTS; i++)
    if (slot[i]) printf(" %d: %zu", i, slot[i] * WINDOW >> 20);
  printf("\n");
  fflush(stdout);
}

static int files_run(ie_device *device, char **files) {
  for (; *files; files++) {
    ie_map map;
    if (ie_map_open(*files, &map, NULL) != IE_OK) return 1;
    size_t count = map.size / WINDOW;
    float *gb_s = malloc((count + 1) * sizeof *gb_s);
    if (!gb_s) return 1;
    windows_measure(device, map.data, count, gb_s);
    windows_print(*files, gb_s, count);
    free(gb_s);
    ie_map_close(&map);
  }
  return 0;
}

static int descending(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x < y) - (x > y);
}

/* Gives back the windows that have at least 85% of the speed of the fastest tenth. */
static size_t windows_release(uint8_t *memory, const float *gb_s, size_t count) {
  float *sorted = malloc((count + 1) * sizeof *sorted);
  if (!sorted) return 0;
  memcpy(sorted, gb_s, count * sizeof *sorted);
  qsort(sorted, count, sizeof *sorted, descending);
  float least = 0.85F * sorted[count / 10];
  free(sorted);
  size_t given = 0;
  for (size_t i = 0; i < count; i++)
    if (gb_s[i] >= least && munmap(memory + i * WINDOW, WINDOW) == 0) given++;
  return given;
}

static int hold_run(ie_device *device, char **command) {
  size_t available = (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
  size_t spare = (size_t)512 << 20, count = available > spare ? (available - spare) / WINDOW : 0;
  void *mapped = mmap(NULL, (count + 1) * WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  float *gb_s = malloc((count + 1) * sizeof *gb_s);
  if (mapped == MAP_FAILED || !gb_s || count == 0) return 1;
  uint8_t *memory = (uint8_t *)(((uintptr_t)mapped + WINDOW - 1) / WINDOW * WINDOW);
  madvise(memory, count * WINDOW, MADV_HUGEPAGE);
  for (size_t i = 0; i < count; i++) memset(memory + i * WINDOW, 1, WINDOW);
  windows_measure(device, memory, count, gb_s);
  windows_print("free memory", gb_s, count);
  size_t given = windows_release(memory, gb_s, count);
  printf("kept: %zu MiB\n", (count - given) * WINDOW >> 20);
  fflush(stdout);
  free(gb_s);
  ie_device_free(device); /* its threads would be pinned where the command's are */
  pid_t child = fork();
  if (child == 0) {
    execvp(command[0], command);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv) {
  ie_device *device;
  ie_device_options options = {.kind = "cpu", .isa = getenv("CLOCHER_ISA")};
  if (argc < 3 || ie_device_open(&options, &device, NULL) != IE_OK) return 2;
  if (strcmp(argv[1], "hold") == 0) return hold_run(device, argv + 2);
  int code = strcmp(argv[1], "files") == 0 ? files_run(device, argv + 2) : 2;
  ie_device_free(device);
  return code;
}
