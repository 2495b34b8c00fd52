#include "base/cgroup.h"
#include "clocher/bench.h"

#include <stdio.h>
#include <string.h>

/* Of the nearest group that has the file. */
static size_t group_number(ie_cgroup group, const char *leaf) {
  size_t value;
  do value = ie_cgroup_number(&group, leaf, "");
  while (value == 0 && ie_cgroup_up(&group));
  return value;
}

static size_t status_bytes(const char *key) {
  return ie_system_number("/proc/self/status", key, 0) << 10;
}

void ie_usage_read(ie_usage *out) {
  memset(out, 0, sizeof *out);
  out->rss_bytes = status_bytes("VmRSS:");
  out->peak_rss_bytes = status_bytes("VmHWM:");
  out->anonymous_bytes = status_bytes("RssAnon:");
  ie_cgroup group;
  if (!ie_cgroup_find("memory", &group)) return;
  bool v1 = group.version == 1;
  out->cgroup_bytes = group_number(group, v1 ? "memory.usage_in_bytes" : "memory.current");
  out->cgroup_peak_bytes = group_number(group, v1 ? "memory.max_usage_in_bytes" : "memory.peak");
}

bool ie_usage_reset_peak(void) {
  FILE *file = fopen("/proc/self/clear_refs", "we");
  if (!file) return false;
  bool written = fputs("5\n", file) >= 0; /* proc(5): resets the peak resident set size */
  return fclose(file) == 0 && written;
}
