/* How much memory this process may have. */
#ifndef CLOCHER_BASE_MEMORY_H
#define CLOCHER_BASE_MEMORY_H

#include "base/cgroup.h"

/* The machine's memory, or less where a control group of this process has a limit. SIZE_MAX when nothing is known. */
size_t ie_memory_limit(void);

/* Bytes that could be allocated now without swapping: MemAvailable, or what the control groups leave (their file
 * cache can be dropped and counts as free). SIZE_MAX when nothing is known. */
size_t ie_memory_available(void);

/* The least limit of a group and of those that hold it, SIZE_MAX for none; left: what they leave now instead. The group
 * is changed. */
size_t ie_memory_of_group(ie_cgroup *group, bool left);

#endif
