#include "eval/usage.h"

#include <stdio.h>
#include <string.h>

/* The number after a key at the beginning of a line, times `unit`; `otherwise` when there is none. */
static size_t file_number(const char *path, const char *key, size_t unit, size_t otherwise) {
  FILE *file = fopen(path, "re");
  if (!file) return otherwise;
  char line[256];
  unsigned long long value = 0;
  bool found = false;
  size_t n = strlen(key);
  while (!found && fgets(line, sizeof line, file))
    found = strncmp(line, key, n) == 0 && sscanf(line + n, "%llu", &value) == 1;
  fclose(file);
  return found ? (size_t)value * unit : otherwise;
}

/* Folder of this process's memory control group, with the version (1 or 2), or 0. */
static int cgroup_folder(char *out, size_t size) {
  FILE *file = fopen("/proc/self/cgroup", "re");
  if (!file) return 0;
  char line[4352];
  int version = 0;
  while (version != 1 && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = '\0';
    controllers++;
    bool unified = controllers[0] == '\0';
    if (!unified && strcmp(controllers, "memory") != 0) continue;
    int n = snprintf(out, size, "/sys/fs/cgroup%s%s", unified ? "" : "/memory", group);
    if (n > 0 && (size_t)n < size) version = unified ? 2 : 1;
  }
  fclose(file);
  return version;
}

/* A file of the group's own folder, or of the mount point: a container sees its group there. */
static size_t cgroup_number(int version, const char *folder, const char *leaf, const char *key) {
  char path[4608];
  snprintf(path, sizeof path, "%s/%s", folder, leaf);
  size_t value = file_number(path, key, 1, 0);
  if (value > 0) return value;
  snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", version == 1 ? "/memory" : "", leaf);
  return file_number(path, key, 1, 0);
}

void ie_usage_read(ie_usage *out) {
  static const char status[] = "/proc/self/status";
  memset(out, 0, sizeof *out);
  out->rss_bytes = file_number(status, "VmRSS:", 1024, 0);
  out->peak_rss_bytes = file_number(status, "VmHWM:", 1024, 0);
  out->anonymous_bytes = file_number(status, "RssAnon:", 1024, 0);
  char folder[4352];
  int version = cgroup_folder(folder, sizeof folder);
  if (version == 0) return;
  bool v1 = version == 1;
  out->cgroup_bytes = cgroup_number(version, folder, v1 ? "memory.usage_in_bytes" : "memory.current", "");
  out->cgroup_peak_bytes =
      cgroup_number(version, folder, v1 ? "memory.max_usage_in_bytes" : "memory.peak", "");
}

bool ie_usage_reset_peak(void) {
  FILE *file = fopen("/proc/self/clear_refs", "we");
  if (!file) return false;
  bool written = fputs("5\n", file) >= 0; /* proc(5): resets the peak resident set size */
  return fclose(file) == 0 && written;
}

size_t ie_memory_available(void) {
  size_t machine = file_number("/proc/meminfo", "MemAvailable:", 1024, SIZE_MAX);
  char folder[4352];
  int version = cgroup_folder(folder, sizeof folder);
  if (version == 0) return machine;
  bool v1 = version == 1;
  size_t limit = cgroup_number(version, folder, v1 ? "memory.limit_in_bytes" : "memory.max", "");
  size_t used = cgroup_number(version, folder, v1 ? "memory.usage_in_bytes" : "memory.current", "");
  size_t cache =
      cgroup_number(version, folder, "memory.stat", v1 ? "total_inactive_file " : "inactive_file ") +
      cgroup_number(version, folder, "memory.stat", v1 ? "total_active_file " : "active_file ");
  if (limit == 0) return machine; /* "max", or not readable */
  size_t held = used > cache ? used - cache : 0;
  size_t group = limit > held ? limit - held : 0;
  return group < machine ? group : machine;
}
