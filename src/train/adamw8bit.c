#include "train/adamw8bit.h"

#include "base/size.h"

#include <math.h>
#include <string.h>

enum { BLOCK = IE_ADAMW8BIT_BLOCK, DECADES = 7 };

/* torch.linspace(0.1, 1, steps + 1) in float: each half counts from its own end. */
static float linspace(int steps, int i) {
  const float width = (1.0f - 0.1f) / (float)steps;
  return i < (steps + 1) / 2 ? 0.1f + width * (float)i : 1.0f - width * (float)(steps - i);
}

/* The numbers above 0, ascending; returns how many. */
static int positive_fill(float *out, bool with_sign) {
  int count = 0;
  for (int decade = 0; decade < DECADES; decade++) {
    int steps = 1 << (with_sign ? decade : decade + 1);
    float unit = (float)pow(10, decade - (DECADES - 1));
    for (int i = 0; i < steps; i++)
      out[count++] = unit * ((linspace(steps, i) + linspace(steps, i + 1)) / 2.0f);
  }
  out[count++] = 1.0f;
  return count;
}

void ie_dynamic_map_fill(ie_dynamic_map *map, bool with_sign) {
  float positive[256];
  int count = positive_fill(positive, with_sign);
  map->zero = (uint8_t)(255 - count);
  map->number[map->zero] = 0.0f;
  for (int i = 0; i < count; i++) map->number[map->zero + 1 + i] = positive[i];
  for (int i = 0; i < map->zero; i++) map->number[map->zero - 1 - i] = -positive[i]; /* there is no -1 */
  for (int k = 0, i = 0; k < 65536; k++) {
    float x = (float)k * 2.0f / 65535.0f - 1.0f;
    while (i < 255 && x > (map->number[i] + map->number[i + 1]) / 2.0f) i++;
    map->code[k] = (uint8_t)i;
  }
}

uint8_t ie_dynamic_map_encode(const ie_dynamic_map *map, float x) {
  if (x == 0.0f) return map->zero;
  float k = (x + 1.0f) * 32767.5f + 0.5f;
  if (!(k > 0.0f)) k = 0.0f; /* NaN too */
  return map->code[k < 65535.0f ? (int)k : 65535];
}

/* Codes of x, and their scale. */
static void block_encode(const ie_dynamic_map *map, const real *x, int n, uint8_t *code, float *scale) {
  real most = 0;
  for (int i = 0; i < n; i++) {
    real magnitude = real_fabs(x[i]);
    most = most < magnitude ? magnitude : most;
  }
  *scale = (float)most;
  if (most > 0) {
    const float inverse = 1.0f / (float)most;
    for (int i = 0; i < n; i++) code[i] = ie_dynamic_map_encode(map, (float)x[i] * inverse);
  } else {
    memset(code, map->zero, (size_t)n);
  }
}

void ie_adamw8bit_step(const ie_adamw8bit *shared, const ie_adamw_args *args, real *p, const real *g,
                       const ie_adamw8bit_state *s, int64_t begin, int64_t end) {
  real m[BLOCK], v[BLOCK];
  for (int64_t b = begin; b < end; b += BLOCK) {
    const int n = (int)ie_min_i64(BLOCK, end - b);
    uint8_t *first = s->first + b, *second = s->second + b;
    float *first_max = &s->first_max[b / BLOCK], *second_max = &s->second_max[b / BLOCK];
    for (int i = 0; i < n; i++) m[i] = shared->first.number[first[i]] * *first_max;
    for (int i = 0; i < n; i++) v[i] = shared->second.number[second[i]] * *second_max;
    shared->kernels->adamw(p + b, g + b, m, v, n, args);
    block_encode(&shared->first, m, n, first, first_max);
    block_encode(&shared->second, v, n, second, second_max);
  }
}
