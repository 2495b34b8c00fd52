/* A thread team: fork and join in a few microseconds, for loops that run hundreds of times a token.
 *
 * The caller of run and for is thread 0 of its team and works with the others; both return when all the work is
 * done, and everything that was written in them is visible then. Waiting threads spin for about 30 us and then
 * sleep on a futex; a team with more threads than processors sleeps at once. Nothing is allocated after
 * ie_team_new. A team belongs to one caller at a time; calls do not nest. C11 atomics only.
 *
 * Work is handed out dynamically, so a function that is run here must give the same result whoever computes
 * which part: split rows, never sums.
 *
 * Pinning (Linux sched_setaffinity; topology from /sys, so no library is needed):
 *   "none"     threads go where the scheduler puts them.
 *   "compact"  thread i on the i-th allowed processor, hardware threads of one core side by side.
 *   "scatter"  cores of different packages in turn, second hardware threads last.
 *   "auto"     as scatter when the team has exactly one thread a core (or a processor) that is allowed; otherwise
 *              none: a smaller team that pinned itself would meet the next program on the same core.
 * More threads than allowed processors wrap around. Thread 0 is the thread that made the team: it is pinned too
 * and gets its old mask back when it frees the team. */
#ifndef CLOCHER_BASE_TEAM_H
#define CLOCHER_BASE_TEAM_H

#include "clocher/status.h"

#include <stdint.h>

typedef struct ie_team ie_team;

/* One call a thread. */
typedef void (*ie_team_fn)(void *arg, int thread, int threads);
/* A part of [0, n). `thread` serves to pick scratch memory: two calls at the same time have different ones. */
typedef void (*ie_range_fn)(void *arg, int thread, int64_t begin, int64_t end);

enum { IE_TEAM_MAX = 1024 };

/* threads = 0: one a core that the affinity mask and the cgroup's quota allow. affinity: see above; NULL is
 * "auto". IE_INVALID_ARGUMENT for other names and numbers, IE_LIMIT when the system refuses a thread. */
ie_status ie_team_new(int threads, const char *affinity, ie_team **out, ie_error *error);
/* Ends the threads and joins them. */
void ie_team_free(ie_team *team);

int ie_team_size(const ie_team *team);
/* The processor that a thread is pinned to, or -1. */
int ie_team_cpu(const ie_team *team, int thread);

/* Calls fn once on every thread. */
void ie_team_run(ie_team *team, ie_team_fn fn, void *arg);

/* Calls fn for parts that cover [0, n) once. A part begins at a multiple of `chunk` and ends at one or at n.
 * Each thread has a fixed contiguous home range that depends on n, chunk and the team's size only, so that equal
 * loops stream the same pages on the same core. It takes an eighth of what is left of it at a time (at least one
 * chunk), and then helps the others from the ends of theirs. A thread that wakes too late is not waited for. */
void ie_team_for(ie_team *team, int64_t n, int64_t chunk, ie_range_fn fn, void *arg);

#endif
