#include "base/team.h"

#include "base/clock.h"
#include "base/signals.h"
#include "base/size.h"
#include "base/topology.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How a job is handed over.
 *
 * `gate` is open while a job may be joined and counts the workers inside. The caller writes the job, opens the
 * gate, advances `epoch` and wakes who sleeps on it. A worker that sees a new epoch enters through the gate if it
 * is still open; what it reads of the job is ordered by that entry. For a loop the caller closes the gate as soon
 * as no part is left and waits for the workers inside only; for ie_team_run it first waits until all came.
 *
 * Sleeping is the usual pair of seq_cst flags: the waiter announces itself and lets the kernel compare the word
 * again; the waker changes the word and looks for announced waiters. */

#define GATE_OPEN 0x80000000u

enum { LINE_BYTES = 128 }; /* two cache lines: the hardware prefetches pairs */

typedef struct team_slot {
  _Alignas(
      LINE_BYTES) _Atomic uint64_t range; /* chunks [low half, high half) of this thread that nobody took */
  ie_team *team;
  pthread_t id;
  int index;
  int cpu; /* -1: not pinned */
} team_slot;

typedef struct team_job {
  uint32_t epoch;
  ie_team_fn each;    /* ie_team_run, else NULL */
  ie_range_fn ranged; /* ie_team_for, else NULL */
  void *arg;
  int64_t n, chunk;
} team_job;

struct ie_team {
  _Alignas(LINE_BYTES) _Atomic uint32_t epoch; /* workers sleep on it */
  _Atomic uint32_t sleepers;
  _Alignas(LINE_BYTES) _Atomic uint32_t gate; /* the caller sleeps on it */
  _Atomic uint32_t caller_sleeps;
  _Atomic uint32_t arrived; /* workers that finished an ie_team_run; the caller sleeps on it */
  _Alignas(LINE_BYTES) team_job job;
  _Atomic bool quit;
  int threads;
  int started; /* workers that must be joined, + 1 */
  int spins;   /* pauses before a waiter sleeps */
  bool repin;  /* old_mask is valid and belongs to `maker` */
  pthread_t maker;
  unsigned char old_mask[IE_CPU_MAX / 8];
  team_slot slots[]; /* (threads) */
};

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
  syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word) {
  syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Pauses that take about 30 us: `pause` is 10 to 140 cycles, by processor. */
static int spins_measure(void) {
  double best = 1;
  for (int round = 0; round < 4; round++) {
    double start = ie_clock_s();
    for (int i = 0; i < 64; i++) cpu_relax();
    double took = (ie_clock_s() - start) / 64;
    if (took < best) best = took;
  }
  double spins = best > 0 ? 30e-6 / best : 1000;
  return spins > 20000 ? 20000 : (int)spins + 1;
}

/* --- Handing out parts ------------------------------------------------------------------------------------- */

static uint64_t range_pack(uint64_t begin, uint64_t end) {
  return begin | end << 32;
}

/* Takes an eighth of a range, from its front or its back. false: nothing is left. */
static bool range_take(_Atomic uint64_t *range, bool front, int64_t *first, int64_t *last) {
  uint64_t seen = atomic_load_explicit(range, memory_order_relaxed);
  for (;;) {
    uint64_t begin = seen & 0xFFFFFFFFu, end = seen >> 32;
    if (begin >= end) return false;
    uint64_t take = (end - begin + 7) / 8;
    uint64_t rest = front ? range_pack(begin + take, end) : range_pack(begin, end - take);
    if (!atomic_compare_exchange_weak_explicit(range, &seen, rest, memory_order_relaxed,
                                               memory_order_relaxed))
      continue;
    *first = (int64_t)(front ? begin : end - take);
    *last = *first + (int64_t)take;
    return true;
  }
}

static void job_work(ie_team *team, int thread) {
  const team_job *job = &team->job;
  if (job->each) {
    job->each(job->arg, thread, team->threads);
    return;
  }
  for (int k = 0; k < team->threads; k++) {
    int owner = (thread + k) % team->threads;
    int64_t first, last;
    while (range_take(&team->slots[owner].range, /*front=*/k == 0, &first, &last))
      job->ranged(job->arg, thread, first * job->chunk,
                  last > (job->n - 1) / job->chunk ? job->n : last * job->chunk);
  }
}

/* --- Workers ----------------------------------------------------------------------------------------------- */

/* Waits until epoch differs from seen and returns it. */
static uint32_t epoch_wait(ie_team *team, uint32_t seen) {
  for (int i = 0; i < team->spins; i++) {
    uint32_t now = atomic_load_explicit(&team->epoch, memory_order_acquire);
    if (now != seen) return now;
    cpu_relax();
  }
  atomic_fetch_add(&team->sleepers, 1);
  uint32_t now;
  while ((now = atomic_load(&team->epoch)) == seen) futex_wait(&team->epoch, seen);
  atomic_fetch_sub(&team->sleepers, 1);
  return now;
}

static bool gate_enter(ie_team *team) {
  uint32_t gate = atomic_load_explicit(&team->gate, memory_order_relaxed);
  while (gate & GATE_OPEN) {
    if (atomic_compare_exchange_weak_explicit(&team->gate, &gate, gate + 1, memory_order_acquire,
                                              memory_order_relaxed))
      return true;
  }
  return false;
}

static void gate_leave(ie_team *team, bool each) {
  if (each) {
    atomic_fetch_add(&team->arrived, 1);
    if (atomic_load(&team->caller_sleeps)) futex_wake(&team->arrived);
  }
  atomic_fetch_sub(&team->gate, 1);
  if (atomic_load(&team->caller_sleeps)) futex_wake(&team->gate);
}

static void *worker_main(void *arg) {
  team_slot *slot = arg;
  ie_team *team = slot->team;
  uint32_t seen = 0;
  for (;;) {
    uint32_t now = epoch_wait(team, seen);
    if (atomic_load_explicit(&team->quit, memory_order_acquire)) return NULL;
    if (!gate_enter(team)) {
      seen = now;
      continue;
    }
    /* The job that is open may be a later one than `now`; and may be one that this thread has already done. */
    bool again = team->job.epoch == seen;
    seen = team->job.epoch;
    if (!again) job_work(team, slot->index);
    gate_leave(team, /*each=*/!again && team->job.each);
  }
}

/* --- The caller -------------------------------------------------------------------------------------------- */

static void job_open(ie_team *team, const team_job *job) {
  uint32_t epoch = atomic_load_explicit(&team->epoch, memory_order_relaxed) + 1;
  team->job = *job;
  team->job.epoch = epoch;
  atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
  atomic_store_explicit(&team->gate, GATE_OPEN, memory_order_release);
  atomic_store(&team->epoch, epoch);
  if (atomic_load(&team->sleepers)) futex_wake(&team->epoch);
}

/* Waits until *word is `target`. Nobody moves *word away from it, and no value comes twice on the way: else the
 * kernel's second look could not tell a missed change from none. */
static void caller_wait(ie_team *team, _Atomic uint32_t *word, uint32_t target) {
  for (int i = 0; i < team->spins; i++) {
    if (atomic_load_explicit(word, memory_order_acquire) == target) return;
    cpu_relax();
  }
  atomic_store(&team->caller_sleeps, 1);
  uint32_t now;
  while ((now = atomic_load(word)) != target) futex_wait(word, now);
  atomic_store(&team->caller_sleeps, 0);
}

static void job_close(ie_team *team) {
  if (team->job.each) caller_wait(team, &team->arrived, (uint32_t)(team->threads - 1));
  atomic_fetch_and(&team->gate, ~GATE_OPEN);
  caller_wait(team, &team->gate, 0);
}

void ie_team_run(ie_team *team, ie_team_fn fn, void *arg) {
  if (team->threads == 1) {
    fn(arg, 0, 1);
    return;
  }
  team_job job = {.each = fn, .arg = arg};
  job_open(team, &job);
  fn(arg, 0, team->threads);
  job_close(team);
}

void ie_team_for(ie_team *team, int64_t n, int64_t chunk, ie_range_fn fn, void *arg) {
  if (n <= 0) return;
  if (chunk < 1) chunk = 1;
  if (team->threads == 1 || n <= chunk) {
    fn(arg, 0, 0, n);
    return;
  }
  /* Numbers of chunks are kept in 31 bits. */
  int64_t most = INT32_MAX, unit = chunk;
  if ((n - 1) / unit >= most) unit *= (n - 1) / unit / most + 1;
  int64_t chunks = (n - 1) / unit + 1;
  for (int t = 0; t < team->threads; t++) {
    uint64_t begin = (uint64_t)(chunks * t / team->threads),
             end = (uint64_t)(chunks * (t + 1) / team->threads);
    atomic_store_explicit(&team->slots[t].range, range_pack(begin, end), memory_order_relaxed);
  }
  team_job job = {.ranged = fn, .arg = arg, .n = n, .chunk = unit};
  job_open(team, &job);
  job_work(team, 0);
  job_close(team);
}

/* --- Birth and death --------------------------------------------------------------------------------------- */

typedef enum team_affinity { PIN_NONE, PIN_COMPACT, PIN_SCATTER, PIN_AUTO } team_affinity;

static int affinity_from_name(const char *name) {
  if (!name || strcmp(name, "auto") == 0) return PIN_AUTO;
  if (strcmp(name, "none") == 0) return PIN_NONE;
  if (strcmp(name, "compact") == 0) return PIN_COMPACT;
  if (strcmp(name, "scatter") == 0) return PIN_SCATTER;
  return -1;
}

/* Order of scatter: first hardware threads before second ones, packages in turn. rank is the position of a core
 * among those of its package. */
typedef struct scatter_key {
  ie_cpu cpu;
  int rank;
} scatter_key;

static int scatter_compare(const void *a, const void *b) {
  const scatter_key *x = a, *y = b;
  if (x->cpu.sibling != y->cpu.sibling) return x->cpu.sibling < y->cpu.sibling ? -1 : 1;
  if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
  return (x->cpu.package > y->cpu.package) - (x->cpu.package < y->cpu.package);
}

static ie_status cpus_scatter(ie_cpu *cpus, int count, ie_error *error) {
  scatter_key *keys = calloc((size_t)count, sizeof *keys);
  if (!keys) return ie_error_set(error, IE_OUT_OF_MEMORY, "thread team: no memory to order processors");
  for (int i = 0; i < count; i++) {
    keys[i].cpu = cpus[i];
    if (i > 0 && cpus[i].package == cpus[i - 1].package)
      keys[i].rank = keys[i - 1].rank + (cpus[i].sibling == 0);
  }
  qsort(keys, (size_t)count, sizeof *keys, scatter_compare);
  for (int i = 0; i < count; i++) cpus[i] = keys[i].cpu;
  free(keys);
  return IE_OK;
}

/* Chooses slots[].cpu. cpus comes in compact order and may be reordered. */
static ie_status team_place(ie_team *team, team_affinity affinity, ie_cpu *cpus, int count, ie_error *error) {
  int cores = ie_cpu_default_threads(cpus, count, 0);
  if (affinity == PIN_AUTO)
    affinity = team->threads == cores || team->threads == count ? PIN_SCATTER : PIN_NONE;
  if (affinity == PIN_SCATTER) {
    ie_status status = cpus_scatter(cpus, count, error);
    if (status != IE_OK) return status;
  }
  for (int t = 0; t < team->threads; t++) team->slots[t].cpu = affinity == PIN_NONE ? -1 : cpus[t % count].id;
  return IE_OK;
}

/* Pinning may be forbidden in a sandbox; the team then works unpinned, and says so through ie_team_cpu. */
static void slot_pin(team_slot *slot) {
  if (slot->cpu < 0) return;
  unsigned char mask[IE_CPU_MAX / 8] = {0};
  mask[slot->cpu / 8] = (unsigned char)(1u << (slot->cpu % 8));
  if (pthread_setaffinity_np(slot->id, sizeof mask, (const cpu_set_t *)(const void *)mask) != 0)
    slot->cpu = -1;
}

static void maker_pin(ie_team *team) {
  team->maker = team->slots[0].id = pthread_self();
  if (team->slots[0].cpu < 0) return;
  cpu_set_t *old = (cpu_set_t *)(void *)team->old_mask;
  if (pthread_getaffinity_np(team->maker, sizeof team->old_mask, old) != 0) {
    team->slots[0].cpu = -1;
    return;
  }
  slot_pin(&team->slots[0]);
  team->repin = team->slots[0].cpu >= 0;
}

static ie_status team_start(ie_team *team, ie_error *error) {
  sigset_t old;
  ie_signals_block(&old);
  int failed = 0;
  for (team->started = 1; team->started < team->threads && !failed; team->started += !failed) {
    team_slot *slot = &team->slots[team->started];
    failed = pthread_create(&slot->id, NULL, worker_main, slot);
    if (!failed) slot_pin(slot);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (!failed) return IE_OK;
  return ie_error_set(error, IE_LIMIT, "thread team: thread %d of %d: %s", team->started, team->threads,
                      strerror(failed));
}

static ie_status team_alloc(int threads, ie_team **out, ie_error *error) {
  size_t bytes = ie_size_align(sizeof(ie_team) + (size_t)threads * sizeof(team_slot), LINE_BYTES);
  ie_team *team = aligned_alloc(LINE_BYTES, bytes);
  if (!team) return ie_error_set(error, IE_OUT_OF_MEMORY, "thread team: no memory for %d threads", threads);
  memset(team, 0, bytes);
  team->threads = threads;
  for (int t = 0; t < threads; t++) {
    team->slots[t].team = team;
    team->slots[t].index = t;
    team->slots[t].cpu = -1;
  }
  *out = team;
  return IE_OK;
}

ie_status ie_team_new(int threads, const char *affinity, ie_team **out, ie_error *error) {
  *out = NULL;
  int pin = affinity_from_name(affinity);
  if (pin < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "affinity \"%s\" is not known; auto, none, compact or scatter expected", affinity);
  if (threads < 0 || threads > IE_TEAM_MAX)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "threads: 0 to %d expected, found %d", IE_TEAM_MAX,
                        threads);
  ie_cpu *cpus = NULL;
  int count = 0;
  ie_team *team = NULL;
  ie_status status = ie_cpus_allowed(&cpus, &count, error);
  if (status != IE_OK) return status;
  double quota = ie_cpu_quota();
  int fitting = ie_cpu_default_threads(cpus, count, quota);
  if (threads == 0) threads = fitting > IE_TEAM_MAX ? IE_TEAM_MAX : fitting;
  status = team_alloc(threads, &team, error);
  if (status != IE_OK) goto cleanup;
  /* A waiter that spins must not take the processor, or the quota, of one that works. */
  bool crowded = threads > count || (quota > 0 && threads > quota + 0.5);
  team->spins = crowded ? 0 : spins_measure();
  status = team_place(team, (team_affinity)pin, cpus, count, error);
  if (status != IE_OK) goto cleanup;
  maker_pin(team);
  status = team_start(team, error);
  if (status != IE_OK) goto cleanup;
  *out = team;
cleanup:
  free(cpus);
  if (status != IE_OK) ie_team_free(team);
  return status;
}

void ie_team_free(ie_team *team) {
  if (!team) return;
  atomic_store_explicit(&team->quit, true, memory_order_release);
  atomic_fetch_add(&team->epoch, 1);
  futex_wake(&team->epoch);
  for (int t = 1; t < team->started; t++) pthread_join(team->slots[t].id, NULL);
  if (team->repin && pthread_equal(team->maker, pthread_self()))
    pthread_setaffinity_np(team->maker, sizeof team->old_mask,
                           (const cpu_set_t *)(const void *)team->old_mask);
  free(team);
}

int ie_team_size(const ie_team *team) {
  return team->threads;
}

int ie_team_cpu(const ie_team *team, int thread) {
  return team->slots[thread].cpu;
}
