#include "base/topology.h"

#include "base/cgroup.h"
#include "base/size.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One decimal number from a file of /sys; `otherwise` when there is none. */
static int sysfs_int(int cpu, const char *leaf, int otherwise) {
  char path[128];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, leaf);
  FILE *file = fopen(path, "re");
  if (!file) return otherwise;
  int value;
  if (fscanf(file, "%d", &value) != 1 || value < 0) value = otherwise;
  fclose(file);
  return value;
}

static int cpu_compare(const void *a, const void *b) {
  const ie_cpu *x = a, *y = b;
  if (x->package != y->package) return x->package < y->package ? -1 : 1;
  if (x->core != y->core) return x->core < y->core ? -1 : 1;
  return (x->id > y->id) - (x->id < y->id);
}

ie_status ie_cpus_allowed(ie_cpu **out, int *count, ie_error *error) {
  *out = NULL;
  *count = 0;
  cpu_set_t *mask = CPU_ALLOC(IE_CPU_MAX);
  if (!mask) return ie_error_set(error, IE_OUT_OF_MEMORY, "topology: no memory for the affinity mask");
  size_t bytes = CPU_ALLOC_SIZE(IE_CPU_MAX);
  CPU_ZERO_S(bytes, mask);
  if (sched_getaffinity(0, bytes, mask) != 0) {
    CPU_FREE(mask);
    return ie_error_set(error, IE_IO, "topology: sched_getaffinity: %s", strerror(errno));
  }
  int found = CPU_COUNT_S(bytes, mask);
  ie_cpu *cpus = calloc((size_t)(found > 0 ? found : 1), sizeof *cpus);
  if (!cpus) {
    CPU_FREE(mask);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "topology: no memory for %d processors", found);
  }
  int n = 0;
  for (int id = 0; id < IE_CPU_MAX && n < found; id++) {
    if (!CPU_ISSET_S((size_t)id, bytes, mask)) continue;
    cpus[n].id = id;
    cpus[n].package = sysfs_int(id, "physical_package_id", 0);
    cpus[n].core = sysfs_int(id, "core_id", id);
    n++;
  }
  CPU_FREE(mask);
  if (n == 0) n = 1; /* an empty mask cannot be; entry 0 is all zero */
  qsort(cpus, (size_t)n, sizeof *cpus, cpu_compare);
  for (int i = 1; i < n; i++) {
    bool same = cpus[i].package == cpus[i - 1].package && cpus[i].core == cpus[i - 1].core;
    cpus[i].sibling = same ? cpus[i - 1].sibling + 1 : 0;
  }
  *out = cpus;
  *count = n;
  return IE_OK;
}

/* cpu.max of version 2 ("max 100000" or "quota period"), or the pair of files of version 1. 0: no limit. */
static double quota_of_folder(const char *folder, bool v2) {
  char path[4416], word[32];
  double quota = 0, period = 0;
  snprintf(path, sizeof path, "%s/%s", folder, v2 ? "cpu.max" : "cpu.cfs_quota_us");
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  if (v2) {
    if (fscanf(file, "%31s %lf", word, &period) == 2 && strcmp(word, "max") != 0) quota = strtod(word, NULL);
  } else if (fscanf(file, "%lf", &quota) != 1) {
    quota = 0;
  }
  fclose(file);
  if (!v2 && quota > 0) {
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    file = fopen(path, "re");
    if (!file) return 0;
    if (fscanf(file, "%lf", &period) != 1) period = 0;
    fclose(file);
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

double ie_cpu_quota(void) {
  ie_cgroup group;
  double best = 0;
  if (!ie_cgroup_find("cpu", &group)) return 0;
  do {
    double quota = quota_of_folder(group.folder, group.version == 2);
    if (quota > 0 && (best == 0 || quota < best)) best = quota;
  } while (ie_cgroup_up(&group));
  return best;
}

int ie_cpu_default_threads(const ie_cpu *cpus, int count, double quota) {
  int cores = 0;
  for (int i = 0; i < count; i++) cores += cpus[i].sibling == 0;
  if (quota > 0 && quota < cores) cores = (int)(quota + 0.5);
  return cores < 1 ? 1 : cores;
}
