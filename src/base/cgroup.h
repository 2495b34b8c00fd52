/* The control group of this process, versions 1 and 2, and numbers from files of the system. Linux. */
#ifndef CLOCHER_BASE_CGROUP_H
#define CLOCHER_BASE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ie_cgroup {
  int version;       /* 1 or 2 */
  size_t mount;      /* length of the mount point's path */
  char folder[4352]; /* of the group, below that */
} ie_cgroup;

/* The group that a controller ("memory", "cpu") counts this process in: version 1's, where that has the controller, else
 * version 2's. False when there is none or it cannot be read. */
bool ie_cgroup_find(const char *controller, ie_cgroup *out);
/* The same of another file than /proc/self/cgroup and another folder than /sys/fs/cgroup. */
bool ie_cgroup_find_at(const char *file, const char *root, const char *controller, ie_cgroup *out);

/* Goes to the group that holds this one; false at the mount point. A container often sees its own group only there. */
bool ie_cgroup_up(ie_cgroup *group);

/* A file of the folder: the number after `key` at the beginning of a line ("": of the first line with a number); 0 for
 * none ("max", say). */
size_t ie_cgroup_number(const ie_cgroup *group, const char *leaf, const char *key);

/* The same of any file, `otherwise` for none. */
size_t ie_system_number(const char *path, const char *key, size_t otherwise);

#endif
