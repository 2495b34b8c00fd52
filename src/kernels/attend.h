/* Attention kernels by instruction set (kern.h says what attend does). All work through a run of keys in tiles of
 * IE_ATTEND_TILE that start at multiples of it, and skip the tiles that no query sees; within one tile a row's
 * sums start at 0 and are then added to the running ones:
 *
 *   p[s] = exp(logit[s] - m'),  m' = max(m, max_s logit[s]),  a = exp(m - m')
 *   l = a l + sum_s p[s],  acc = a acc + sum_s p[s] v[s]
 *
 * So a row's result depends on its own keys only, not on the other rows of the call, and values that a row does
 * not see are not even multiplied by zero: an unused slot may hold anything. */
#ifndef CLOCHER_KERNELS_ATTEND_H
#define CLOCHER_KERNELS_ATTEND_H

#include "blocks/kv_int8.h"
#include "kernels/kern.h"

enum { IE_ATTEND_TILE = IE_KV_GROUP }; /* so a tile of int8 keys has one scale a channel */

void ie_attend__scalar(const ie_attend_args *args);
void ie_attend__avx2(const ie_attend_args *args);
void ie_attend__avx512(const ie_attend_args *args);

#endif
