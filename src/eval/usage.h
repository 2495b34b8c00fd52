/* What the system says about memory: of this process, its control group, and the machine. The public part is
 * ie_usage_read in clocher/bench.h. */
#ifndef CLOCHER_EVAL_USAGE_H
#define CLOCHER_EVAL_USAGE_H

#include "clocher/bench.h"

/* Bytes that could be allocated now without swapping: MemAvailable, or what the control group leaves (its file
 * cache can be dropped and counts as free). SIZE_MAX when nothing can be read. */
size_t ie_memory_available(void);

#endif
