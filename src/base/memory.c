#include "base/memory.h"

#include <stdint.h>
#include <unistd.h>

static size_t group_left(const ie_cgroup *g, size_t limit) {
  bool v1 = g->version == 1;
  size_t used = ie_cgroup_number(g, v1 ? "memory.usage_in_bytes" : "memory.current", "");
  size_t cache = ie_cgroup_number(g, "memory.stat", v1 ? "total_inactive_file " : "inactive_file ") +
                 ie_cgroup_number(g, "memory.stat", v1 ? "total_active_file " : "active_file ");
  size_t held = used > cache ? used - cache : 0;
  return limit > held ? limit - held : 0;
}

size_t ie_memory_of_group(ie_cgroup *g, bool left) {
  size_t least = SIZE_MAX;
  do {
    size_t limit = ie_cgroup_number(g, g->version == 1 ? "memory.limit_in_bytes" : "memory.max", "");
    if (limit == 0) continue; /* none, or not readable */
    if (left) limit = group_left(g, limit);
    if (limit < least) least = limit;
  } while (ie_cgroup_up(g));
  return least;
}

static size_t with_groups(size_t machine, bool left) {
  ie_cgroup group;
  if (!ie_cgroup_find("memory", &group)) return machine;
  size_t least = ie_memory_of_group(&group, left);
  return least < machine ? least : machine;
}

size_t ie_memory_limit(void) {
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  return with_groups(pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX, /*left=*/false);
}

size_t ie_memory_available(void) {
  size_t kb = ie_system_number("/proc/meminfo", "MemAvailable:", 0);
  return with_groups(kb ? kb << 10 : SIZE_MAX, /*left=*/true);
}
