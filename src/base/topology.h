/* What processors this process may use: affinity mask, cores behind it, and the cgroup's CPU quota. Linux. */
#ifndef CLOCHER_BASE_TOPOLOGY_H
#define CLOCHER_BASE_TOPOLOGY_H

#include "clocher/status.h"

enum { IE_CPU_MAX = 8192 }; /* processors that are looked at; CONFIG_NR_CPUS of the largest kernels */

typedef struct ie_cpu {
  int id;      /* number of the logical processor, as sched_setaffinity counts */
  int package; /* socket; 0 where the kernel does not say */
  int core;    /* core within the socket; equal to id where the kernel does not say */
  int sibling; /* 0 for the first hardware thread of a core that is allowed, 1 for the second, ... */
} ie_cpu;

/* The processors that the calling thread may run on, in the order (package, core, id). *out is the caller's, to
 * be freed with free(); *count >= 1. */
ie_status ie_cpus_allowed(ie_cpu **out, int *count, ie_error *error);

/* Processors' worth of time that the control groups of this process grant (versions 1 and 2, the tightest of
 * all levels that can be read), or 0 when there is no limit. */
double ie_cpu_quota(void);

/* Threads that suit this process: one a core that is allowed, at most the quota rounded to a whole number, at
 * least 1. Two hardware threads of one core share its memory ports and its matrix unit, so a second gains nothing. */
int ie_cpu_default_threads(const ie_cpu *cpus, int count, double quota);

#endif
