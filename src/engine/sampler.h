/* What the engine itself uses of the sampler beside clocher/sample.h. */
#ifndef CLOCHER_ENGINE_SAMPLER_H
#define CLOCHER_ENGINE_SAMPLER_H

#include "clocher/sample.h"
#include "kernels/kern.h"

/* Greedy rows without steps take the maximum from this table (borrowed, must outlive the sampler). The result
 * does not depend on it. */
void ie_sampler_use_kernels(ie_sampler *sampler, const ie_kernels *kernels);

/* Checks the default steps of params, as ie_sampler_new_default does. */
ie_status ie_sample_params_check(const ie_sample_params *params, ie_error *error);
/* Gives a sampler the default steps, seed and greedy of params in place of what it had; takes no memory. */
ie_status ie_sampler_configure(ie_sampler *sampler, const ie_sample_params *params, ie_error *error);
/* What a sampler of so many ids takes. */
size_t ie_sampler_bytes(int64_t vocab);

#endif
