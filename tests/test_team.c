/* The thread team: every part once, every thread once, with fewer and more threads than processors. */
#include "base/clock.h"
#include "base/team.h"
#include "base/topology.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int sizes[] = {1, 2, 3, 5, 16};
enum { SIZES = sizeof sizes / sizeof sizes[0], N_MAX = 5000 };

static ie_team *team_make(int threads, const char *affinity) {
  ie_team *team = NULL;
  ie_error error = {0};
  if (ie_team_new(threads, affinity, &team, &error) != IE_OK) fail_msg("%s", error.message);
  return team;
}

/* Plain (not atomic) memory on purpose: the thread sanitizer then proves the ordering. */
typedef struct marks {
  int64_t n, chunk;
  int threads;
  int touched[N_MAX];
  int calls[IE_TEAM_MAX];
  _Atomic int wrong;
} marks;

static void mark_each(void *arg, int thread, int threads) {
  marks *m = arg;
  m->calls[thread]++;
  if (threads != m->threads) atomic_fetch_add(&m->wrong, 1);
}

static void mark_range(void *arg, int thread, int64_t begin, int64_t end) {
  marks *m = arg;
  if (begin % m->chunk != 0 || (end % m->chunk != 0 && end != m->n) || begin >= end || end > m->n ||
      begin < 0 || thread < 0 || thread >= m->threads) {
    atomic_fetch_add(&m->wrong, 1);
    return;
  }
  for (int64_t i = begin; i < end; i++) m->touched[i]++;
}

static void test_run_calls_each_thread_once(void **state) {
  (void)state;
  for (int s = 0; s < SIZES; s++) {
    ie_team *team = team_make(sizes[s], "auto");
    assert_int_equal(ie_team_size(team), sizes[s]);
    static marks m;
    memset(&m, 0, sizeof m);
    m.threads = sizes[s];
    for (int round = 1; round <= 200; round++) {
      ie_team_run(team, mark_each, &m);
      for (int t = 0; t < sizes[s]; t++) assert_int_equal(m.calls[t], round);
    }
    assert_int_equal(m.wrong, 0);
    ie_team_free(team);
  }
}

static void test_for_covers_once(void **state) {
  (void)state;
  static const int64_t counts[] = {0, 1, 2, 3, 7, 15, 16, 17, 63, 257, 1000, 4999, 5000};
  static const int64_t chunks[] = {1, 2, 16, 100, 5000, 1000000};
  static marks m;
  for (int s = 0; s < SIZES; s++) {
    ie_team *team = team_make(sizes[s], "auto");
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
      for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
        memset(&m, 0, sizeof m);
        m.n = counts[i];
        m.chunk = chunks[c];
        m.threads = sizes[s];
        ie_team_for(team, m.n, m.chunk, mark_range, &m);
        for (int64_t k = 0; k < N_MAX; k++) assert_int_equal(m.touched[k], k < m.n);
        assert_int_equal(m.wrong, 0);
      }
    }
    ie_team_free(team);
  }
}

/* Runs and loops in turn without a pause between: a late worker must never take part in a job that is not its. */
static void test_jobs_back_to_back(void **state) {
  (void)state;
  static marks a, b;
  for (int s = 0; s < SIZES; s++) {
    ie_team *team = team_make(sizes[s], "none");
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    a.threads = b.threads = sizes[s];
    a.n = 40, a.chunk = 1;
    b.n = 300, b.chunk = 7;
    int rounds = sizes[s] > 3 ? 400 : 3000;
    for (int round = 0; round < rounds; round++) {
      ie_team_for(team, a.n, a.chunk, mark_range, &a);
      ie_team_run(team, mark_each, &a);
      ie_team_for(team, b.n, b.chunk, mark_range, &b);
    }
    for (int64_t k = 0; k < a.n; k++) assert_int_equal(a.touched[k], rounds);
    for (int64_t k = 0; k < b.n; k++) assert_int_equal(b.touched[k], rounds);
    for (int t = 0; t < sizes[s]; t++) assert_int_equal(a.calls[t], rounds);
    assert_int_equal(a.wrong + b.wrong, 0);
    ie_team_free(team);
  }
}

/* Each thread writes its part, the next loop reads the others' parts: what a loop wrote is visible to the next. */
typedef struct relay {
  int64_t n;
  int64_t from[1024], to[1024];
} relay;

static void relay_step(void *arg, int thread, int64_t begin, int64_t end) {
  relay *r = arg;
  (void)thread;
  for (int64_t i = begin; i < end; i++) r->to[i] = r->from[r->n - 1 - i] + 1;
}

static void test_memory_is_visible(void **state) {
  (void)state;
  static relay r;
  for (int s = 0; s < SIZES; s++) {
    ie_team *team = team_make(sizes[s], "none");
    memset(&r, 0, sizeof r);
    r.n = 1024;
    for (int64_t i = 0; i < r.n; i++) r.from[i] = i * i;
    for (int round = 0; round < 100; round++) {
      ie_team_for(team, r.n, 8, relay_step, &r);
      memcpy(r.from, r.to, sizeof r.from);
    }
    for (int64_t i = 0; i < r.n; i++) assert_int_equal(r.from[i], i * i + 100);
    ie_team_free(team);
  }
}

/* A count of chunks beyond 31 bits is grouped, not cut. */
static void sum_range(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  atomic_fetch_add((_Atomic int64_t *)arg, end - begin);
}

static void test_for_huge(void **state) {
  (void)state;
  ie_team *team = team_make(3, "none");
  static const int64_t counts[] = {INT64_C(1) << 31, (INT64_C(1) << 33) + 5, INT64_MAX};
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    _Atomic int64_t sum = 0;
    ie_team_for(team, counts[i], 1, sum_range, &sum);
    assert_true(sum == counts[i]);
  }
  ie_team_free(team);
}

/* A thread that sits in one part does not hold back the parts of its home range. */
typedef struct stall {
  _Atomic int64_t done;
  int64_t n;
  _Atomic int gave_up;
} stall;

static void stall_range(void *arg, int thread, int64_t begin, int64_t end) {
  stall *s = arg;
  (void)thread;
  if (begin == 0) { /* waits until everything but this part is done by the others */
    double start = ie_clock_s();
    while (atomic_load(&s->done) != s->n - end) {
      if (ie_clock_s() - start > 20) {
        atomic_store(&s->gave_up, 1);
        break;
      }
      sched_yield();
    }
  }
  atomic_fetch_add(&s->done, end - begin);
}

static void test_for_steals(void **state) {
  (void)state;
  ie_team *team = team_make(2, "none");
  for (int round = 0; round < 20; round++) {
    stall s = {.n = 640};
    ie_team_for(team, s.n, 1, stall_range, &s);
    assert_int_equal(s.done, s.n);
    assert_int_equal(s.gave_up, 0);
  }
  ie_team_free(team);
}

static void test_arguments(void **state) {
  (void)state;
  ie_team *team = (ie_team *)state;
  ie_error error = {0};
  assert_int_equal(ie_team_new(2, "diagonal", &team, &error), IE_INVALID_ARGUMENT);
  assert_null(team);
  assert_non_null(strstr(error.message, "diagonal"));
  assert_int_equal(ie_team_new(-1, NULL, &team, &error), IE_INVALID_ARGUMENT);
  assert_int_equal(ie_team_new(IE_TEAM_MAX + 1, NULL, &team, &error), IE_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "1025"));
  ie_team_free(NULL);
}

static void test_pinning(void **state) {
  (void)state;
  cpu_set_t before, inside, after;
  assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
  int allowed = CPU_COUNT(&before);
  ie_team *team = team_make(allowed, "compact");
  for (int t = 0; t < allowed; t++) {
    int cpu = ie_team_cpu(team, t);
    assert_true(cpu >= 0 && CPU_ISSET((size_t)cpu, &before));
    for (int u = 0; u < t; u++) assert_int_not_equal(cpu, ie_team_cpu(team, u));
  }
  assert_int_equal(sched_getaffinity(0, sizeof inside, &inside), 0);
  assert_int_equal(CPU_COUNT(&inside), 1);
  ie_team_free(team);
  assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
  assert_true(CPU_EQUAL(&before, &after));

  team = team_make(allowed + 3, "auto");
  for (int t = 0; t < allowed + 3; t++) assert_int_equal(ie_team_cpu(team, t), -1);
  ie_team_free(team);
}

static void test_default_threads(void **state) {
  (void)state;
  static const ie_cpu cpus[] = {
      {.id = 0}, {.id = 4, .sibling = 1}, {.id = 1, .core = 1}, {.id = 5, .core = 1, .sibling = 1}};
  assert_int_equal(ie_cpu_default_threads(cpus, 4, 0), 2);
  assert_int_equal(ie_cpu_default_threads(cpus, 4, 1.4), 1);
  assert_int_equal(ie_cpu_default_threads(cpus, 4, 1.5), 2);
  assert_int_equal(ie_cpu_default_threads(cpus, 4, 0.2), 1);
  assert_int_equal(ie_cpu_default_threads(cpus, 4, 64), 2);
  ie_team *team = team_make(0, NULL);
  assert_in_range(ie_team_size(team), 1, IE_TEAM_MAX);
  ie_team_free(team);
}

static void nothing(void *arg, int thread, int threads) {
  (void)arg, (void)thread, (void)threads;
}
static void nothing_range(void *arg, int thread, int64_t begin, int64_t end) {
  (void)arg, (void)thread, (void)begin, (void)end;
}

static int compare_double(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Prints, does not judge: the machine may be busy. */
static void test_latency(void **state) {
  (void)state;
  enum { ROUNDS = 4001 };
  static double run_us[ROUNDS], for_us[ROUNDS];
  ie_team *team = team_make(0, "auto");
  for (int i = 0; i < ROUNDS; i++) {
    double start = ie_clock_s();
    ie_team_run(team, nothing, NULL);
    double middle = ie_clock_s();
    ie_team_for(team, 64, 1, nothing_range, NULL);
    run_us[i] = 1e6 * (middle - start);
    for_us[i] = 1e6 * (ie_clock_s() - middle);
  }
  qsort(run_us, ROUNDS, sizeof run_us[0], compare_double);
  qsort(for_us, ROUNDS, sizeof for_us[0], compare_double);
  print_message(
      "fork and join, %d threads: run p50 %.2f us, p95 %.2f us; for (64 parts) p50 %.2f us, p95 %.2f us\n",
      ie_team_size(team), run_us[ROUNDS / 2], run_us[ROUNDS * 95 / 100], for_us[ROUNDS / 2],
      for_us[ROUNDS * 95 / 100]);
  ie_team_free(team);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_run_calls_each_thread_once),
      cmocka_unit_test(test_for_covers_once),
      cmocka_unit_test(test_jobs_back_to_back),
      cmocka_unit_test(test_memory_is_visible),
      cmocka_unit_test(test_for_huge),
      cmocka_unit_test(test_for_steals),
      cmocka_unit_test(test_arguments),
      cmocka_unit_test(test_pinning),
      cmocka_unit_test(test_default_threads),
      cmocka_unit_test(test_latency),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
