/* Probes: that they read what they say, count what they say, and notice other programs. Speeds are printed, not
 * judged: the machine may be busy. */
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "clocher/bench.h"
#include "kernels/probe.h"
#include "support/tempdir.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static ie_device *device_open(const char *isa, int threads) {
  ie_device *device = NULL;
  ie_error error = {0};
  ie_device_options options = {.isa = isa, .threads = threads};
  if (ie_device_open(&options, &device, &error) != IE_OK) fail_msg("%s", error.message);
  return device;
}

/* The digest is the exclusive or of all 64-bit words: every byte is read, once, in every pattern. */
static void test_read_reads_all(void **state) {
  (void)state;
  enum { WORDS = 3 * IE_PROBE_STRIDE / 8 };
  uint64_t *words = aligned_alloc(64, WORDS * sizeof *words), expected = 0;
  assert_non_null(words);
  for (int i = 0; i < WORDS; i++) expected ^= words[i] = ie_rng_u64(1, 1, (uint64_t)i);
  for (int isa = 0; isa <= (int)ie_isa_best(); isa++) {
    ie_probe_loops loops;
    ie_probe_loops_fill(&loops, (ie_isa)isa);
    for (int streams = 1; streams <= 8; streams *= 2)
      for (int prefetch = 0; prefetch < 2; prefetch++)
        assert_true(loops.read((const uint8_t *)words, WORDS * sizeof *words, streams, prefetch) == expected);
  }
  free(words);
}

static void test_memory(void **state) {
  (void)state;
  ie_device *device = device_open(NULL, 0);
  ie_memory_probe_options options = {.buffer_bytes = 32 << 20, .read_bytes = 64 << 20};
  ie_memory_probe probe;
  ie_error error = {0};
  assert_int_equal(ie_probe_memory(device, &options, &probe, &error), IE_OK);
  assert_int_equal(probe.patterns, 8);
  assert_in_range(probe.buffer_bytes, (32 << 20) - IE_PROBE_STRIDE * ie_device_threads(device), 32 << 20);
  assert_true(probe.read_bytes >= options.read_bytes &&
              probe.read_bytes < options.read_bytes + probe.buffer_bytes);
  double best = 0;
  for (int i = 0; i < 8; i++) {
    assert_true(probe.each[i].gb_s > 0.01 && probe.each[i].gb_s < 1e5);
    assert_int_equal(probe.each[i].streams, 1 << i / 2);
    assert_int_equal(probe.each[i].prefetch, i % 2);
    if (probe.each[i].gb_s > best) best = probe.each[i].gb_s;
  }
  assert_true(probe.read_gb_s == best);
  print_message("memory (a buffer of 32 MiB, caches help): %.1f GB/s, %s\n", best, probe.pattern);
  options.buffer_bytes = 100;
  assert_int_equal(ie_probe_memory(device, &options, &probe, &error), IE_INVALID_ARGUMENT);
  options.buffer_bytes = (size_t)1 << 50;
  assert_int_equal(ie_probe_memory(device, &options, &probe, &error), IE_OUT_OF_MEMORY);
  ie_device_free(device);
}

/* Says yes from the n-th time that it is asked on; of one thread. */
static bool cancel_at(void *arg) {
  int *left = arg;
  return --*left < 0;
}

static void test_memory_is_cancelled(void **state) {
  (void)state;
  ie_device *device = device_open(NULL, 1);
  for (int asks = 0; asks < 40; asks += 3) {
    int left = asks;
    ie_memory_probe_options options = {.buffer_bytes = 8 << 20,
                                       .read_bytes = (size_t)1 << 50,
                                       .cancelled = cancel_at,
                                       .cancelled_arg = &left};
    ie_memory_probe probe;
    ie_error error = {0};
    assert_int_equal(ie_probe_memory(device, &options, &probe, &error), IE_CANCELLED);
    assert_true(probe.read_gb_s == 0 && probe.patterns == 0);
    assert_true(left >= -10); /* no pattern went on */
  }
  ie_device_free(device);
}

/* Processor time of this thread: other programs do not count. */
static double cpu_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void test_matrix(void **state) {
  (void)state;
  static const char *const kinds[] = {"scalar-f32", "avx2-f32", "avx512-f32", "amx-bf16"};
  static const char *const integers[] = {"", "", "avx512-vnni", "amx-int8"};
  for (int isa = 0; isa <= (int)ie_isa_best(); isa++) {
    ie_device *device = device_open(ie_isa_name((ie_isa)isa), 2);
    ie_matrix_probe probe;
    ie_probe_matrix(device, &probe);
    assert_string_equal(probe.matrix_kind, kinds[isa]);
    assert_string_equal(probe.int8_kind, integers[isa]);
    assert_true(probe.matrix_tflop_s > 1e-5 && probe.matrix_tflop_s < 1e3);
    print_message("matrix %s: %.3f TFLOP/s; int8 %.3f Tops\n", probe.matrix_kind, probe.matrix_tflop_s,
                  probe.int8_tops);
    ie_device_free(device);
  }
  /* Twice the rounds are twice the operations, and take longer. */
  ie_probe_loops loops;
  ie_probe_loops_fill(&loops, ie_isa_best());
  for (int i = 0; i < loops.matrix_count; i++) {
    double once = loops.matrix[i].run(1000), start = cpu_s();
    loops.matrix[i].run(1 << 20);
    double one = cpu_s() - start;
    assert_true(loops.matrix[i].run(1 << 24) == once / 1000 * (1 << 24));
    assert_true(cpu_s() - start - one > 2 * one); /* 16 times as much work */
  }
}

/* --- Disk -------------------------------------------------------------------------------------------------------- */

static void file_make(const char *dir, const char *name, size_t bytes, char *path) {
  snprintf(path, 512, "%s/%s", dir, name);
  int fd = open(path, O_CREAT | O_WRONLY, 0600);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
  close(fd);
}

static void text_write(const char *dir, const char *name, const char *text) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_true(fputs(text, f) >= 0);
  assert_int_equal(fclose(f), 0);
}

/* The least limit of all levels counts, of both versions; a group without one has none. */
static void test_groups(void **state) {
  (void)state;
  char *dir = tempdir_make(), path[1024], self[1024];
  static const char *const folders[] = {"a", "a/b", "memory", "memory/x", "cpu,cpuacct"};
  ie_cgroup g;
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, folders[i]);
    assert_int_equal(mkdir(path, 0700), 0);
  }
  snprintf(self, sizeof self, "%s/self", dir);
  text_write(dir, "self", "0::/a/b\n");
  text_write(dir, "a/b/memory.max", "max\n");
  assert_true(ie_cgroup_find_at(self, dir, "memory", &g) && g.version == 2);
  assert_true(ie_memory_of_group(&g, false) == SIZE_MAX);
  text_write(dir, "a/memory.max", "5000000\n");
  text_write(dir, "a/memory.current", "3000000\n");
  text_write(dir, "a/memory.stat", "anon 1\ninactive_file 600000\nactive_file 400000\n");
  assert_true(ie_cgroup_find_at(self, dir, "memory", &g));
  assert_int_equal(ie_memory_of_group(&g, false), 5000000);
  assert_true(ie_cgroup_find_at(self, dir, "memory", &g));
  assert_int_equal(ie_memory_of_group(&g, true), 3000000);
  text_write(dir, "a/b/memory.max", "4000000\n");
  assert_true(ie_cgroup_find_at(self, dir, "memory", &g));
  assert_int_equal(ie_memory_of_group(&g, false), 4000000);
  text_write(dir, "self", "7:memory,hugetlb:/x\n3:cpu,cpuacct:/\n0::/a/b\n");
  text_write(dir, "memory/x/memory.limit_in_bytes", "7000000\n");
  assert_true(ie_cgroup_find_at(self, dir, "memory", &g) && g.version == 1);
  assert_int_equal(ie_memory_of_group(&g, false), 7000000);
  assert_true(ie_cgroup_find_at(self, dir, "cpu", &g) && g.version == 1 && !ie_cgroup_up(&g));
  assert_true(ie_cgroup_find_at(self, dir, "pids", &g) && g.version == 2);
  text_write(dir, "self", "nothing\n");
  assert_false(ie_cgroup_find_at(self, dir, "memory", &g));
  tempdir_remove(dir);
}

static int folder_count(const char *dir) {
  DIR *d = opendir(dir);
  assert_non_null(d);
  int n = 0;
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

static void test_disk(void **state) {
  (void)state;
  char path[512], big[512];
  char *dir = tempdir_make();
  ie_disk_probe probe;
  ie_error error = {0};
  ie_disk_probe_options options = {.read_bytes = 8 << 20, .depth = 2};

  file_make(dir, "small.bin", 9 << 20, path);
  assert_int_equal(ie_probe_disk(path, &options, &probe, &error), IE_OK);
  assert_string_equal(probe.file, path);
  assert_true(probe.file_bytes == 9 << 20 && probe.read_bytes == 8 << 20 && probe.depth == 2);
  assert_true(probe.sequential_gb_s > 0 && probe.random_gb_s > 0);

  /* A folder without a file of 1 MiB: a temporary one is written, and gone afterwards. */
  char *bare = tempdir_make();
  file_make(bare, "short.bin", (1 << 20) - 1, big);
  int before = folder_count(bare);
  assert_int_equal(ie_probe_disk(bare, &options, &probe, &error), IE_OK);
  assert_int_equal(folder_count(bare), before);
  assert_string_equal(probe.file, bare);
  assert_true(probe.file_bytes == 8 << 20);
  print_message("disk (a small file, caches help): %.2f GB/s sequential, %.2f random, %s\n",
                probe.sequential_gb_s, probe.random_gb_s, probe.direct ? "O_DIRECT" : "buffered");

  file_make(bare, "whole.bin", 1 << 20, big);
  assert_int_equal(ie_probe_disk(bare, &options, &probe, &error), IE_OK);
  assert_string_equal(probe.file, big);
  tempdir_remove(bare);
  file_make(dir, "big.bin", 12 << 20, big);
  assert_int_equal(ie_probe_disk(dir, &options, &probe, &error), IE_OK);
  assert_string_equal(probe.file, big);

  file_make(dir, "tiny.bin", 4096, path);
  assert_int_equal(ie_probe_disk(path, &options, &probe, &error), IE_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "tiny.bin"));
  snprintf(path, sizeof path, "%s", "/nowhere/at/all");
  assert_int_equal(ie_probe_disk(path, NULL, &probe, &error), IE_IO);
  assert_non_null(strstr(error.message, "/nowhere/at/all"));
  /* As the stream of weights reads; a small buffer makes the reads smaller. */
  options = (ie_disk_probe_options){.read_bytes = 8 << 20, .buffer_bytes = 1 << 20};
  assert_int_equal(ie_probe_disk(big, &options, &probe, &error), IE_OK);
  assert_int_equal(probe.depth, probe.uring ? 32 : 8);
  assert_int_equal(probe.block_bytes, (1 << 20) / probe.depth);
  assert_true(probe.read_bytes == 8 << 20 && probe.random_gb_s > 0);
  options.depth = 1000;
  assert_int_equal(ie_probe_disk(big, &options, &probe, &error), IE_INVALID_ARGUMENT);
  tempdir_remove(dir);
}

/* --- Other programs and memory -------------------------------------------------------------------------------------- */

static void spin(double seconds) {
  double start = ie_clock_s();
  while (ie_clock_s() - start < seconds) continue;
}

static void test_load(void **state) {
  (void)state;
  ie_load_mark mark, now;
  ie_load load;
  ie_load_begin(&mark);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    for (;;) spin(1);
  }
  usleep(500000);
  ie_load_since(&mark, &load); /* before wait: then the child's time would still not be ours (RUSAGE_SELF) */
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  assert_true(load.wall_s >= 0.5 && load.wall_s < 60);
  assert_true(load.foreign_cpu_s > 0.1);
  assert_true(load.foreign_share > 0 && load.foreign_share <= 1.1);
  assert_true(load.steal_s >= 0);
  /* What this process does itself is not foreign. */
  ie_load_begin(&mark);
  spin(0.3);
  ie_load_begin(&now);
  assert_true(now.own_s - mark.own_s > 0.01 && now.own_s - mark.own_s <= now.wall_s - mark.wall_s + 0.05);
}

static void test_usage(void **state) {
  (void)state;
  enum { BYTES = 64 << 20 };
  ie_usage before, held, after, reset;
  ie_usage_read(&before);
  assert_true(before.rss_bytes > 0 && before.peak_rss_bytes >= before.rss_bytes);
  char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(memory != MAP_FAILED);
  memset(memory, 1, BYTES);
  ie_usage_read(&held);
  assert_true(held.rss_bytes >= before.rss_bytes + BYTES * 9 / 10);
  assert_true(held.anonymous_bytes >= BYTES * 9 / 10);
  munmap(memory, BYTES);
  ie_usage_read(&after); /* the kernel counts pages in batches */
  assert_true(after.rss_bytes < held.rss_bytes && after.peak_rss_bytes + (1 << 20) >= held.rss_bytes);
  if (ie_usage_reset_peak()) {
    ie_usage_read(&reset);
    assert_true(reset.peak_rss_bytes < held.rss_bytes);
  }
  assert_true(ie_memory_available() > 1 << 20 && ie_memory_available() <= ie_memory_limit());
  print_message("control group: %zu MiB now, %zu MiB at most\n", after.cgroup_bytes >> 20,
                after.cgroup_peak_bytes >> 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_read_reads_all),
      cmocka_unit_test(test_memory),
      cmocka_unit_test(test_memory_is_cancelled),
      cmocka_unit_test(test_matrix),
      cmocka_unit_test(test_disk),
      cmocka_unit_test(test_groups),
      cmocka_unit_test(test_load),
      cmocka_unit_test(test_usage),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
