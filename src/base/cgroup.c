#include "base/cgroup.h"

#include <stdio.h>
#include <string.h>

size_t ie_system_number(const char *path, const char *key, size_t otherwise) {
  FILE *file = fopen(path, "re");
  if (!file) return otherwise;
  char line[256];
  unsigned long long value = 0;
  bool found = false;
  size_t n = strlen(key);
  while (!found && fgets(line, sizeof line, file))
    found = strncmp(line, key, n) == 0 && sscanf(line + n, "%llu", &value) == 1;
  fclose(file);
  return found ? (size_t)value : otherwise;
}

static bool list_has(char *list, const char *name) {
  char *save = NULL;
  for (char *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save))
    if (strcmp(one, name) == 0) return true;
  return false;
}

/* A line is "id:controllers:group"; version 2 has id 0 and no controllers. */
static bool line_take(char *line, const char *root, const char *controller, ie_cgroup *out) {
  line[strcspn(line, "\n")] = '\0';
  char *controllers = strchr(line, ':');
  char *group = controllers ? strchr(controllers + 1, ':') : NULL;
  if (!group) return false;
  *group++ = '\0';
  controllers++;
  bool unified = controllers[0] == '\0';
  if (!unified && !list_has(controllers, controller)) return false;
  int mount = snprintf(out->folder, sizeof out->folder, "%s%s%s", root, unified ? "" : "/",
                       unified ? "" : controller);
  if (mount < 0 || (size_t)mount >= sizeof out->folder) return false;
  out->mount = (size_t)mount;
  out->version = unified ? 2 : 1;
  size_t room = sizeof out->folder - out->mount;
  int n = snprintf(out->folder + out->mount, room, "%s", strcmp(group, "/") == 0 ? "" : group);
  return n >= 0 && (size_t)n < room;
}

bool ie_cgroup_find_at(const char *path, const char *root, const char *controller, ie_cgroup *out) {
  FILE *file = fopen(path, "re");
  if (!file) return false;
  char line[4352];
  bool found = false;
  while (!(found && out->version == 1) && fgets(line, sizeof line, file)) {
    ie_cgroup one;
    if (!line_take(line, root, controller, &one)) continue;
    *out = one;
    found = true;
  }
  fclose(file);
  return found;
}

bool ie_cgroup_find(const char *controller, ie_cgroup *out) {
  return ie_cgroup_find_at("/proc/self/cgroup", "/sys/fs/cgroup", controller, out);
}

bool ie_cgroup_up(ie_cgroup *g) {
  char *slash = strrchr(g->folder + g->mount, '/');
  if (!slash) return false;
  *slash = '\0';
  return true;
}

size_t ie_cgroup_number(const ie_cgroup *g, const char *leaf, const char *key) {
  char path[sizeof g->folder + 64];
  snprintf(path, sizeof path, "%s/%s", g->folder, leaf);
  return ie_system_number(path, key, 0);
}
