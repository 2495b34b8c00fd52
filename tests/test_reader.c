/* Reads past the page cache: both ways give the bytes of the file, whatever the places, and say what went wrong. */
#include "base/reader.h"

#include "base/rng.h"
#include "support/tempdir.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum {
  PAGE = IE_READER_ALIGN,
  FILE_BYTES = 5 * 1024 * 1024 + 1234,
  SPAN = (FILE_BYTES + PAGE - 1) / PAGE * PAGE
};

/* --- Reads that fail on demand: the program is linked with --wrap=pread ------------------------------------------ */

typedef enum pread_fault { FAULT_NONE, FAULT_EIO, FAULT_SHORT, FAULT_EINTR } pread_fault;
static pread_fault fault;
static uint64_t fault_at; /* the offset it happens at */

ssize_t __real_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset) {
  pread_fault f = (uint64_t)offset == fault_at ? fault : FAULT_NONE;
  if (f == FAULT_EINTR) fault = FAULT_NONE; /* once */
  if (f == FAULT_EIO || f == FAULT_EINTR) {
    errno = f == FAULT_EIO ? EIO : EINTR;
    return -1;
  }
  ssize_t got = __real_pread(fd, to, bytes, offset);
  return f == FAULT_SHORT && got > 3 * PAGE ? 2 * PAGE + 100 : got;
}

/* --- One file ------------------------------------------------------------------------------------------------- */

typedef struct subject {
  ie_reader_kind kind;
  bool buffered;
} subject;

typedef struct bench {
  char *dir, *path;
  uint8_t *want, *got; /* (SPAN) */
  ie_reader *reader;
  int file;
} bench;

static bench bench_open(const subject *s, int requests) {
  bench b = {.dir = tempdir_make()};
  b.want = calloc(1, SPAN);
  assert_int_equal(posix_memalign((void **)&b.got, PAGE, SPAN), 0);
  memset(b.got, 0xEE, SPAN);
  for (size_t i = 0; i < FILE_BYTES; i += 4) {
    uint64_t r = ie_rng_u64(3, 0, i);
    memcpy(b.want + i, &r, 4);
  }
  memset(b.want + FILE_BYTES, 0, SPAN - FILE_BYTES);
  b.path = strdup(tempdir_write(b.dir, "file", b.want, FILE_BYTES));
  ie_error error;
  ie_reader_options o = {.kind = s->kind, .depth = 3, .requests = requests, .buffered = s->buffered};
  ie_status status = ie_reader_new(&o, &b.reader, &error);
  if (status != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(ie_reader_add(b.reader, b.path, &b.file, &error), IE_OK);
  if (s->buffered) assert_false(ie_reader_direct(b.reader));
  assert_int_equal(ie_reader_which(b.reader), s->kind);
  fault = FAULT_NONE;
  return b;
}

static void bench_close(bench *b) {
  ie_reader_free(b->reader);
  free(b->want);
  free(b->got);
  free(b->path);
  tempdir_remove(b->dir);
}

static ie_status read_whole(bench *b, ie_error *error) {
  return ie_reader_read(b->reader, &(ie_read){.file = b->file, .bytes = SPAN, .to = b->got}, error);
}

static void bytes_are_those_of_the_file(void **state) {
  bench b = bench_open(*state, 0);
  ie_error error;
  assert_int_equal(read_whole(&b, &error), IE_OK);
  assert_memory_equal(b.got, b.want, FILE_BYTES);
  assert_int_equal(ie_reader_pending(b.reader), 0);
  ie_read_done done;
  assert_false(ie_reader_finish(b.reader, 10, &done));
  /* wholly behind the end: nothing is read, nothing fails */
  memset(b.got, 0xEE, PAGE);
  assert_int_equal(ie_reader_read(b.reader,
                                  &(ie_read){.file = b.file, .offset = SPAN, .bytes = PAGE, .to = b.got},
                                  &error),
                   IE_OK);
  assert_int_equal(b.got[0], 0xEE);
  bench_close(&b);
}

/* Many requests of all sizes, more than fit: each is reported once, with its own tag. */
static void many_at_a_time(void **state) {
  enum { ROOM = 5, READS = 200 };
  bench b = bench_open(*state, ROOM);
  static bool seen[READS];
  memset(seen, 0, sizeof seen);
  int started = 0, finished = 0;
  uint8_t *to;
  assert_int_equal(posix_memalign((void **)&to, PAGE, (size_t)ROOM * 2 * SPAN), 0);
  int place_of[READS], free_places[ROOM] = {0, 1, 2, 3, 4}, free_count = ROOM;
  ie_read reads[READS];
  while (finished < READS) {
    while (started < READS && ie_reader_has_room(b.reader)) {
      uint64_t pages = SPAN / PAGE, first = ie_rng_u64(4, 0, (uint64_t)started) % pages;
      uint64_t n = 1 + ie_rng_u64(4, 1, (uint64_t)started) % (started % 10 ? 8 : pages);
      if (first + n > pages) n = pages - first;
      int place = free_places[--free_count];
      place_of[started] = place;
      reads[started] = (ie_read){.file = b.file,
                                 .offset = first * PAGE,
                                 .bytes = n * PAGE,
                                 .to = to + (size_t)place * SPAN,
                                 .tag = (uint64_t)started};
      ie_reader_start(b.reader, &reads[started]);
      started++;
    }
    ie_read_done done;
    if (!ie_reader_finish(b.reader, 1000, &done)) continue;
    assert_true(done.read.tag < READS && !seen[done.read.tag]);
    assert_int_equal(done.failed, 0);
    const ie_read *r = &reads[done.read.tag];
    size_t bytes = r->offset + r->bytes > FILE_BYTES ? FILE_BYTES - r->offset : r->bytes;
    assert_memory_equal(r->to, b.want + r->offset, bytes);
    seen[done.read.tag] = true;
    free_places[free_count++] = place_of[done.read.tag];
    finished++;
  }
  assert_int_equal(ie_reader_pending(b.reader), 0);
  free(to);
  bench_close(&b);
}

/* What is under way when a reader is freed is waited for: the memory may go right after. */
static void freed_under_way(void **state) {
  bench b = bench_open(*state, 0);
  enum { READS = 20, BYTES = SPAN / READS / PAGE * PAGE };
  for (size_t i = 0; i < READS; i++)
    ie_reader_start(b.reader,
                    &(ie_read){.file = b.file, .offset = i * BYTES, .bytes = BYTES, .to = b.got + i * BYTES});
  bench_close(&b);
}

static void shrunk_files_are_errors(void **state) {
  static const off_t sizes[] = {0, 100, PAGE, 1024 * 1024, FILE_BYTES - 1};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    bench b = bench_open(*state, 0);
    ie_error error = {0};
    assert_int_equal(truncate(b.path, sizes[i]), 0);
    assert_int_equal(read_whole(&b, &error), IE_IO);
    assert_non_null(strstr(error.message, b.path));
    assert_non_null(strstr(error.message, "shrunk"));
    /* and the reader still works for what is there */
    if (sizes[i] >= PAGE)
      assert_int_equal(
          ie_reader_read(b.reader, &(ie_read){.file = b.file, .bytes = PAGE, .to = b.got}, &error), IE_OK);
    bench_close(&b);
  }
}

static void missing_files_are_errors(void **state) {
  bench b = bench_open(*state, 0);
  ie_error error;
  int file;
  assert_int_equal(ie_reader_add(b.reader, "/no/such/file", &file, &error), IE_IO);
  assert_non_null(strstr(error.message, "/no/such/file"));
  bench_close(&b);
}

/* Only the threads call pread. */
static void faults_of_the_disk(void **state) {
  bench b = bench_open(*state, 0);
  ie_error error = {0};
  fault_at = 2 * 1024 * 1024;
  fault = FAULT_EIO;
  assert_int_equal(read_whole(&b, &error), IE_IO);
  assert_non_null(strstr(error.message, "Input/output error"));
  fault = FAULT_SHORT;
  memset(b.got, 0xEE, SPAN);
  assert_int_equal(read_whole(&b, &error), IE_OK);
  assert_memory_equal(b.got, b.want, FILE_BYTES);
  fault = FAULT_EINTR;
  memset(b.got, 0xEE, SPAN);
  assert_int_equal(read_whole(&b, &error), IE_OK);
  assert_memory_equal(b.got, b.want, FILE_BYTES);
  fault = FAULT_NONE;
  bench_close(&b);
}

static volatile sig_atomic_t signal_taken;
static void signal_note(int number) {
  (void)number;
  signal_taken = 1;
}

/* A signal of the process that this thread blocks waits for it: no thread of the reader takes it. */
static void signals_are_the_programs(void **state) {
  bench b = bench_open(*state, 0);
  sigset_t mine, old;
  struct sigaction note = {.sa_handler = signal_note}, before;
  sigemptyset(&mine);
  sigaddset(&mine, SIGUSR1);
  assert_int_equal(sigaction(SIGUSR1, &note, &before), 0);
  assert_int_equal(pthread_sigmask(SIG_BLOCK, &mine, &old), 0);
  signal_taken = 0;
  assert_int_equal(kill(getpid(), SIGUSR1), 0);
  nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
  assert_int_equal(signal_taken, 0);
  assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
  assert_int_equal(signal_taken, 1);
  assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
  bench_close(&b);
}

int main(void) {
  static subject subjects[] = {{IE_READER_THREADS, false},
                               {IE_READER_THREADS, true},
                               {IE_READER_URING, false},
                               {IE_READER_URING, true}};
  static const char *const names[] = {"threads", "threads, buffered", "io_uring", "io_uring, buffered"};
  static const struct {
    const char *name;
    CMUnitTestFunction function;
    bool threads_only;
  } checks[] = {
      {"bytes_are_those_of_the_file", bytes_are_those_of_the_file, false},
      {"many_at_a_time", many_at_a_time, false},
      {"freed_under_way", freed_under_way, false},
      {"shrunk_files_are_errors", shrunk_files_are_errors, false},
      {"missing_files_are_errors", missing_files_are_errors, false},
      {"faults_of_the_disk", faults_of_the_disk, true},
      {"signals_are_the_programs", signals_are_the_programs, true},
  };
  enum { CHECKS = sizeof checks / sizeof *checks, SUBJECTS = sizeof subjects / sizeof *subjects };
  static struct CMUnitTest tests[CHECKS * SUBJECTS];
  static char full[CHECKS * SUBJECTS][96];
  size_t n = 0;
  ie_reader *uring;
  bool works = ie_reader_new(&(ie_reader_options){.kind = IE_READER_URING}, &uring, NULL) == IE_OK;
  ie_reader_free(uring);
  for (size_t s = 0; s < SUBJECTS; s++)
    for (size_t c = 0; c < CHECKS; c++) {
      bool threads = subjects[s].kind == IE_READER_THREADS;
      if ((!threads && !works) || (!threads && checks[c].threads_only)) continue;
      snprintf(full[n], sizeof full[n], "%s: %s", checks[c].name, names[s]);
      tests[n] = (struct CMUnitTest){
          .name = full[n], .test_func = checks[c].function, .initial_state = &subjects[s]};
      n++;
    }
  return _cmocka_run_group_tests("reader", tests, n, NULL, NULL);
}
