/* What the engine itself uses of the sampler beside clocher/sample.h. */
#ifndef CLOCHER_ENGINE_SAMPLER_H
#define CLOCHER_ENGINE_SAMPLER_H

#include "clocher/sample.h"
#include "kernels/kern.h"

/* Greedy rows without steps take the maximum from this table (borrowed, must outlive the sampler). The result
 * does not depend on it. */
void ie_sampler_use_kernels(ie_sampler *sampler, const ie_kernels *kernels);

#endif
