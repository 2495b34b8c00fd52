#include "tensor/moe_pairs.h"

#include <string.h>

bool moe_pairs_take(ie_ctx *ctx, moe_pairs *pairs, int64_t T, int64_t k, int64_t E) {
  *pairs = (moe_pairs){.T = T, .k = k, .E = E, .P = T * k};
  size_t bytes = (size_t)pairs->P * sizeof(int32_t);
  return ie_ctx_scratch(ctx, bytes, (void **)&pairs->pair) &&
         ie_ctx_scratch(ctx, bytes, (void **)&pairs->row) &&
         ie_ctx_scratch(ctx, bytes, (void **)&pairs->sorted) &&
         ie_ctx_scratch(ctx, (size_t)(E + 1) * sizeof(int32_t), (void **)&pairs->start);
}

/* Counting sort, stable. start[e] is where the next pair of e goes, so in the end where e + 1 begins. */
void moe_pairs_sort(moe_pairs *pairs, const int32_t *expert) {
  int32_t *start = pairs->start, at = 0;
  memset(start, 0, (size_t)(pairs->E + 1) * sizeof *start);
  for (int64_t p = 0; p < pairs->P; p++) start[expert[p]]++;
  for (int64_t e = 0; e < pairs->E; e++) {
    int32_t count = start[e];
    start[e] = at;
    at += count;
  }
  for (int64_t p = 0; p < pairs->P; p++) {
    int32_t to = start[expert[p]]++;
    pairs->sorted[p] = to;
    pairs->pair[to] = (int32_t)p;
    pairs->row[to] = (int32_t)(p / pairs->k);
  }
  memmove(start + 1, start, (size_t)pairs->E * sizeof *start);
  start[0] = 0;
}
