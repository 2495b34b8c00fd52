#include "engine/sampler.h"

#include "base/rng.h"
#include "base/size.h"
#include "engine/select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = IE_SELECT_BLOCK };

struct ie_sampler {
  ie_sample_step *steps; /* (step_count); room for the default ones at least */
  size_t step_count;
  int64_t vocab;
  uint64_t seed;
  bool greedy;
  bool order_kept; /* no step can change which score is the largest */
  const ie_kernels *kernels;

  /* The row at hand. */
  float *scores; /* (count) of the candidates that are left */
  int32_t *ids;  /* (count) ascending, when listed; else candidate i is id i */
  int64_t count;
  bool listed;

  /* Scratch. */
  float *weights;     /* (count) exp(score - largest) */
  double *sums;       /* (blocks) sums of weights */
  float *maxima;      /* (blocks) of scores */
  ie_scored *entries; /* (vocab) for ie_select_cut */
  double *buckets;    /* (IE_SELECT_BUCKETS) masses */
  uint64_t *marks;    /* one bit an id, all clear between uses */
  double total;       /* of weights */
  float largest;      /* of scores */
};

/* --- Making one ------------------------------------------------------------------------------------------- */

size_t ie_sample_default_steps(const ie_sample_params *params,
                               ie_sample_step steps[IE_SAMPLE_DEFAULT_STEPS]) {
  size_t n = 0;
  if (params->repetition_penalty != 0)
    steps[n++] = (ie_sample_step){.kind = IE_SAMPLE_REPETITION_PENALTY, .value = params->repetition_penalty};
  if (params->temperature != 0)
    steps[n++] = (ie_sample_step){.kind = IE_SAMPLE_TEMPERATURE, .value = params->temperature};
  if (params->top_k != 0)
    steps[n++] = (ie_sample_step){.kind = IE_SAMPLE_TOP_K, .value = (double)params->top_k};
  if (params->top_p != 0) steps[n++] = (ie_sample_step){.kind = IE_SAMPLE_TOP_P, .value = params->top_p};
  if (params->min_p != 0) steps[n++] = (ie_sample_step){.kind = IE_SAMPLE_MIN_P, .value = params->min_p};
  return n;
}

static ie_status step_check(const ie_sample_step *step, ie_error *error) {
  double v = step->value;
  bool positive = (float)v > 0 && isfinite((float)v); /* devices compute with floats */
  switch (step->kind) {
  case IE_SAMPLE_REPETITION_PENALTY:
    if (positive) return IE_OK;
    return ie_error_set(error, IE_INVALID_ARGUMENT, "repetition penalty: expected a number above 0, found %g",
                        v);
  case IE_SAMPLE_TEMPERATURE:
    if (positive) return IE_OK;
    return ie_error_set(error, IE_INVALID_ARGUMENT, "temperature: expected a number above 0, found %g", v);
  case IE_SAMPLE_TOP_K:
    if (v >= 1 && v <= 0x1p53 && v == floor(v)) return IE_OK;
    return ie_error_set(error, IE_INVALID_ARGUMENT, "top-k: expected an integer of at least 1, found %g", v);
  case IE_SAMPLE_TOP_P:
    if (v >= 0 && v <= 1) return IE_OK;
    return ie_error_set(error, IE_INVALID_ARGUMENT, "top-p: expected a number from 0 to 1, found %g", v);
  case IE_SAMPLE_MIN_P:
    if (v >= 0 && v <= 1) return IE_OK;
    return ie_error_set(error, IE_INVALID_ARGUMENT, "min-p: expected a number from 0 to 1, found %g", v);
  case IE_SAMPLE_CUSTOM:
    if (step->apply) return IE_OK;
    return ie_error_set(error, IE_INVALID_ARGUMENT, "sampler: a custom step without a function");
  }
  return ie_error_set(error, IE_INVALID_ARGUMENT, "sampler: unknown step %d", (int)step->kind);
}

static ie_status steps_check(const ie_sample_step *steps, size_t count, ie_error *error) {
  ie_status status = IE_OK;
  for (size_t i = 0; i < count && status == IE_OK; i++) status = step_check(&steps[i], error);
  return status;
}

ie_status ie_sample_params_check(const ie_sample_params *params, ie_error *error) {
  ie_sample_step steps[IE_SAMPLE_DEFAULT_STEPS];
  return steps_check(steps, ie_sample_default_steps(params, steps), error);
}

/* The arrays below. */
size_t ie_sampler_bytes(int64_t vocab) {
  size_t n = (size_t)vocab, blocks = n / BLOCK + 1;
  size_t id = sizeof(float) + sizeof(int32_t) + sizeof(float) + sizeof(ie_scored);
  return sizeof(ie_sampler) + n * id + blocks * (sizeof(double) + sizeof(float)) +
         IE_SELECT_BUCKETS * sizeof(double) + (n / 64 + 1) * sizeof(uint64_t);
}

static bool sampler_allocate(ie_sampler *s) {
  size_t n = (size_t)s->vocab, blocks = n / BLOCK + 1;
  s->steps = calloc(s->step_count + IE_SAMPLE_DEFAULT_STEPS, sizeof *s->steps);
  s->scores = malloc(n * sizeof *s->scores);
  s->ids = malloc(n * sizeof *s->ids);
  s->weights = malloc(n * sizeof *s->weights);
  s->sums = malloc(blocks * sizeof *s->sums);
  s->maxima = malloc(blocks * sizeof *s->maxima);
  s->entries = malloc(n * sizeof *s->entries);
  s->buckets = malloc(IE_SELECT_BUCKETS * sizeof *s->buckets);
  s->marks = calloc(n / 64 + 1, sizeof *s->marks);
  return s->steps && s->scores && s->ids && s->weights && s->sums && s->maxima && s->entries && s->buckets &&
         s->marks;
}

static bool steps_keep_order(const ie_sampler *s) {
  for (size_t i = 0; i < s->step_count; i++)
    if (s->steps[i].kind == IE_SAMPLE_REPETITION_PENALTY || s->steps[i].kind == IE_SAMPLE_CUSTOM)
      return false;
  return true;
}

ie_status ie_sampler_new(const ie_sampler_config *config, ie_sampler **out, ie_error *error) {
  *out = NULL;
  if (config->vocab < 1 || config->vocab > INT32_MAX)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "sampler: vocabulary of %lld ids",
                        (long long)config->vocab);
  ie_status status = steps_check(config->steps, config->step_count, error);
  if (status != IE_OK) return status;
  ie_sampler *s = calloc(1, sizeof *s);
  if (s)
    *s = (ie_sampler){.step_count = config->step_count,
                      .vocab = config->vocab,
                      .seed = config->seed,
                      .greedy = config->greedy};
  if (!s || !sampler_allocate(s)) {
    ie_sampler_free(s);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "sampler: out of memory for %lld ids",
                        (long long)config->vocab);
  }
  for (size_t i = 0; i < config->step_count; i++) s->steps[i] = config->steps[i];
  s->order_kept = steps_keep_order(s);
  *out = s;
  return IE_OK;
}

ie_status ie_sampler_configure(ie_sampler *s, const ie_sample_params *params, ie_error *error) {
  ie_status status = ie_sample_params_check(params, error);
  if (status != IE_OK) return status;
  s->step_count = ie_sample_default_steps(params, s->steps);
  s->seed = params->seed;
  s->greedy = params->greedy;
  s->order_kept = steps_keep_order(s);
  return IE_OK;
}

ie_status ie_sampler_new_default(const ie_sample_params *params, int64_t vocab, ie_sampler **out,
                                 ie_error *error) {
  ie_sample_step steps[IE_SAMPLE_DEFAULT_STEPS];
  ie_sampler_config config = {.steps = steps,
                              .step_count = ie_sample_default_steps(params, steps),
                              .vocab = vocab,
                              .seed = params->seed,
                              .greedy = params->greedy};
  return ie_sampler_new(&config, out, error);
}

void ie_sampler_free(ie_sampler *s) {
  if (!s) return;
  free(s->steps);
  free(s->scores);
  free(s->ids);
  free(s->weights);
  free(s->sums);
  free(s->maxima);
  free(s->entries);
  free(s->buckets);
  free(s->marks);
  free(s);
}

void ie_sampler_use_kernels(ie_sampler *s, const ie_kernels *kernels) {
  s->kernels = kernels;
}

/* --- Passes over the row ------------------------------------------------------------------------------------ */

static int64_t blocks_of(int64_t count) {
  return ie_div_up(count, BLOCK);
}

/* First index that is NaN or +infinity, or -1. */
static int64_t bad_find(const float *x, int64_t count) {
  int64_t i = 0;
  for (; i + BLOCK <= count; i += BLOCK) {
    int32_t bad[16] = {0};
    for (int k = 0; k < BLOCK; k += 16)
      for (int j = 0; j < 16; j++) bad[j] |= !(x[i + k + j] < INFINITY);
    int32_t any = 0;
    for (int j = 0; j < 16; j++) any |= bad[j];
    if (any) break;
  }
  for (; i < count; i++)
    if (!(x[i] < INFINITY)) return i;
  return -1;
}

static ie_status bad_refuse(const ie_sample_input *input, int64_t at, ie_error *error) {
  return ie_error_set(error, IE_NUMERIC, "logits: %s at id %lld (row %llu, step %llu)",
                      isnan(input->logits[at]) ? "NaN" : "infinity", (long long)at,
                      (unsigned long long)input->row, (unsigned long long)input->step);
}

static ie_status input_check(const ie_sampler *s, const ie_sample_input *input, ie_error *error) {
  if (input->vocab < 1 || input->vocab > s->vocab)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "sampler: row of %lld logits, expected 1 to %lld",
                        (long long)input->vocab, (long long)s->vocab);
  for (size_t i = 0; i < input->seen_count; i++)
    if (input->seen[i] < 0 || input->seen[i] >= input->vocab)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "sampler: id %d of the history, expected 0 to %lld",
                          (int)input->seen[i], (long long)input->vocab - 1);
  return IE_OK;
}

/* maxima and largest of these scores. IE_NUMERIC when no finite score is left. */
static ie_status largest_find(ie_sampler *s, const float *scores, int64_t count, ie_error *error) {
  float most = ie_select_block_maxima(scores, count, s->maxima) ? -INFINITY : INFINITY;
  for (int64_t b = 0; b < blocks_of(count); b++) most = s->maxima[b] > most ? s->maxima[b] : most;
  s->largest = most;
  if (isfinite(most)) return IE_OK;
  return ie_error_set(error, IE_NUMERIC, "sampler: the largest score is %g, expected a finite number",
                      (double)most);
}

static void weights_block(float *w, const float *scores, float largest) {
  for (int j = 0; j < BLOCK; j += 4) {
    ie_f32x4 x;
    memcpy(&x, scores + j, sizeof x);
    x = ie_exp_nonpositive4(x - largest);
    memcpy(w + j, &x, sizeof x);
  }
}

static double sum_block(const float *w) {
  float lane[16];
  for (int j = 0; j < 16; j++) lane[j] = (w[j] + w[j + 16]) + (w[j + 32] + w[j + 48]);
  for (int half = 8; half > 0; half /= 2)
    for (int j = 0; j < half; j++) lane[j] += lane[j + half];
  return (double)lane[0];
}

/* weights, sums and total; largest must be known. */
static void weights_find(ie_sampler *s) {
  int64_t b = 0;
  double total = 0;
  for (; (b + 1) * BLOCK <= s->count; b++) {
    weights_block(s->weights + b * BLOCK, s->scores + b * BLOCK, s->largest);
    total += s->sums[b] = sum_block(s->weights + b * BLOCK);
  }
  if (b * BLOCK < s->count) {
    s->sums[b] = 0;
    for (int64_t i = b * BLOCK; i < s->count; i++) {
      s->weights[i] = ie_exp_nonpositive(s->scores[i] - s->largest);
      s->sums[b] += (double)s->weights[i];
    }
    total += s->sums[b];
  }
  s->total = total;
}

/* Makes the row a list, so that candidates can be left out of it. */
static void row_list(ie_sampler *s) {
  for (int64_t i = 0; !s->listed && i < s->count; i++) s->ids[i] = (int32_t)i;
  s->listed = true;
}

/* Keeps the candidates above the cut and the first `ties` of those that equal it. maxima must be of this row.
 * Each candidate is written, and the place is kept or taken again: whether it stays is not predictable, and a
 * mispredicted branch costs more than the store. */
static void cut_apply(ie_sampler *s, ie_cut cut) {
  int64_t kept = 0, ties = cut.ties;
  bool listed = s->listed;
  for (int64_t b = 0; b < blocks_of(s->count); b++) {
    if (s->maxima[b] < cut.score) continue;
    int64_t end = ie_min_i64((b + 1) * BLOCK, s->count);
    for (int64_t i = b * BLOCK; i < end; i++) {
      float score = s->scores[i];
      s->ids[kept] = listed ? s->ids[i] : (int32_t)i;
      s->scores[kept] = score;
      if (score == cut.score)
        kept += ties-- > 0;
      else
        kept += score > cut.score;
    }
  }
  s->count = kept;
  s->listed = true;
}

/* A score that at least `wanted` candidates reach: the wanted-th largest of the blocks' maxima, because each of
 * those blocks holds one. -infinity when there are not so many blocks. */
static float bound_find(ie_sampler *s, int64_t wanted) {
  int64_t blocks = blocks_of(s->count);
  if (wanted >= blocks) return -INFINITY;
  for (int64_t b = 0; b < blocks; b++) s->entries[b] = (ie_scored){s->maxima[b], 1};
  return ie_select_cut(s->entries, blocks, (double)wanted).score;
}

/* Collects the candidates that reach `bound`, with mass 1 or their weight; returns their number. */
static int64_t entries_collect(ie_sampler *s, float bound, bool weighted, double *mass) {
  int64_t n = 0;
  *mass = 0;
  for (int64_t b = 0; b < blocks_of(s->count); b++) {
    if (s->maxima[b] < bound) continue;
    int64_t end = ie_min_i64((b + 1) * BLOCK, s->count);
    for (int64_t i = b * BLOCK; i < end; i++) {
      bool in = s->scores[i] >= bound;
      float one = weighted ? s->weights[i] : 1.0f;
      s->entries[n] = (ie_scored){s->scores[i], one};
      *mass += in ? (double)one : 0;
      n += in;
    }
  }
  return n;
}

/* The same cut for heads of any length in two passes: masses are summed in buckets of the distance to the largest
 * score, `scale` buckets a unit, and only the bucket in which the target is reached is searched. */
static ie_cut bucket_cut(ie_sampler *s, float scale, bool weighted, double target) {
  enum { LAST = IE_SELECT_BUCKETS - 1 };
  memset(s->buckets, 0, IE_SELECT_BUCKETS * sizeof *s->buckets);
  int32_t bucket[BLOCK];
  for (int64_t i = 0; i < s->count; i += BLOCK) {
    int64_t n = ie_min_i64(BLOCK, s->count - i);
    ie_select_buckets(s->scores + i, n, s->largest, scale, bucket);
    for (int64_t j = 0; j < n; j++) s->buckets[bucket[j]] += weighted ? (double)s->weights[i + j] : 1;
  }
  int32_t at = 0;
  while (at < LAST && s->buckets[at] < target) target -= s->buckets[at++];
  int64_t found = 0;
  for (int64_t i = 0; i < s->count; i += BLOCK) {
    int64_t n = ie_min_i64(BLOCK, s->count - i);
    ie_select_buckets(s->scores + i, n, s->largest, scale, bucket);
    for (int64_t j = 0; j < n; j++)
      if (bucket[j] == at)
        s->entries[found++] = (ie_scored){s->scores[i + j], weighted ? s->weights[i + j] : 1.0f};
  }
  /* rounding of the sums can leave the last bucket empty: then everything stays */
  return found ? ie_select_cut(s->entries, found, target) : (ie_cut){-INFINITY, INT64_MAX};
}

/* --- Steps --------------------------------------------------------------------------------------------------- */

/* Each marked id once. */
static void penalty_run(ie_sampler *s, const ie_sample_input *input, float penalty) {
  for (size_t i = 0; i < input->seen_count; i++) {
    uint64_t *word = &s->marks[input->seen[i] / 64], bit = (uint64_t)1 << (input->seen[i] % 64);
    if (!s->listed && !(*word & bit)) {
      float *x = &s->scores[input->seen[i]];
      *x = *x < 0 ? *x * penalty : *x / penalty;
    }
    *word |= bit;
  }
  for (int64_t i = 0; s->listed && i < s->count; i++) {
    float *x = &s->scores[i];
    if (s->marks[s->ids[i] / 64] >> (s->ids[i] % 64) & 1) *x = *x < 0 ? *x * penalty : *x / penalty;
  }
  for (size_t i = 0; i < input->seen_count; i++) s->marks[input->seen[i] / 64] = 0;
}

static void temperature_run(ie_sampler *s, float t) {
  int64_t i = 0;
  for (; i + 16 <= s->count; i += 16)
    for (int j = 0; j < 16; j++) s->scores[i + j] /= t;
  for (; i < s->count; i++) s->scores[i] /= t;
}

static ie_status top_k_run(ie_sampler *s, double value, ie_error *error) {
  if (value >= (double)s->count) return IE_OK;
  ie_status status = largest_find(s, s->scores, s->count, error);
  if (status != IE_OK) return status;
  double mass;
  ie_cut cut;
  if (value < (double)blocks_of(s->count)) {
    int64_t n = entries_collect(s, bound_find(s, (int64_t)value), /*weighted=*/false, &mass);
    cut = ie_select_cut(s->entries, n, value);
  } else {
    /* buckets for the range in which the blocks' maxima lie, and three times as far below */
    float low = s->largest;
    for (int64_t b = 0; b < blocks_of(s->count); b++)
      if (s->maxima[b] < low && s->maxima[b] > -INFINITY) low = s->maxima[b];
    float range = 4 * (s->largest - low);
    cut =
        bucket_cut(s, range > 0 && range < 1e30f ? IE_SELECT_BUCKETS / range : 1, /*weighted=*/false, value);
  }
  cut_apply(s, (ie_cut){cut.score, INT64_MAX});
  return IE_OK;
}

static ie_status top_p_run(ie_sampler *s, double p, ie_error *error) {
  enum { HEAD = 512 }; /* blocks whose maxima give the first guess at the head */
  if (p >= 1) return IE_OK;
  ie_status status = largest_find(s, s->scores, s->count, error);
  if (status != IE_OK) return status;
  weights_find(s);
  double mass, target = p * s->total;
  int64_t n = entries_collect(s, bound_find(s, HEAD), /*weighted=*/true, &mass);
  cut_apply(s, mass >= target || n == s->count ? ie_select_cut(s->entries, n, target)
                                               : bucket_cut(s, /*scale=*/32, /*weighted=*/true, target));
  return IE_OK;
}

static ie_status min_p_run(ie_sampler *s, double p, ie_error *error) {
  ie_status status = largest_find(s, s->scores, s->count, error);
  if (status != IE_OK) return status;
  weights_find(s);
  int64_t kept = 0;
  row_list(s);
  for (int64_t i = 0; i < s->count; i++) {
    s->ids[kept] = s->ids[i];
    s->scores[kept] = s->scores[i];
    kept += (double)s->weights[i] >= p;
  }
  s->count = kept;
  return IE_OK;
}

static ie_status custom_run(ie_sampler *s, const ie_sample_step *step, const ie_sample_input *input,
                            ie_error *error) {
  ie_sample_row row = {.scores = s->scores,
                       .ids = s->listed ? s->ids : NULL,
                       .count = s->count,
                       .seen = input->seen,
                       .seen_count = input->seen_count,
                       .step = input->step};
  ie_status status = step->apply(step->state, &row, error);
  if (status != IE_OK) return status;
  int64_t bad = bad_find(s->scores, s->count);
  if (bad < 0) return IE_OK;
  return ie_error_set(error, IE_NUMERIC, "sampler: a custom step made the score of id %lld %g",
                      (long long)(s->listed ? s->ids[bad] : bad), (double)s->scores[bad]);
}

static ie_status step_run(ie_sampler *s, const ie_sample_step *step, const ie_sample_input *input,
                          ie_error *error) {
  switch (step->kind) {
  case IE_SAMPLE_REPETITION_PENALTY: penalty_run(s, input, (float)step->value); return IE_OK;
  case IE_SAMPLE_TEMPERATURE: temperature_run(s, (float)step->value); return IE_OK;
  case IE_SAMPLE_TOP_K: return top_k_run(s, step->value, error);
  case IE_SAMPLE_TOP_P: return top_p_run(s, step->value, error);
  case IE_SAMPLE_MIN_P: return min_p_run(s, step->value, error);
  case IE_SAMPLE_CUSTOM: return custom_run(s, step, input, error);
  }
  return ie_error_set(error, IE_INTERNAL, "sampler: unknown step %d", (int)step->kind);
}

/* The checked logits become the row. */
static ie_status row_load(ie_sampler *s, const ie_sample_input *input, ie_error *error) {
  ie_status status = input_check(s, input, error);
  if (status != IE_OK) return status;
  int64_t bad = bad_find(input->logits, input->vocab);
  if (bad >= 0) return bad_refuse(input, bad, error);
  memcpy(s->scores, input->logits, (size_t)input->vocab * sizeof *s->scores);
  s->count = input->vocab;
  s->listed = false;
  return IE_OK;
}

/* All steps; then largest is known. */
static ie_status row_run(ie_sampler *s, const ie_sample_input *input, ie_error *error) {
  ie_status status = row_load(s, input, error);
  for (size_t i = 0; status == IE_OK && i < s->step_count; i++)
    status = step_run(s, &s->steps[i], input, error);
  return status == IE_OK ? largest_find(s, s->scores, s->count, error) : status;
}

/* --- Results -------------------------------------------------------------------------------------------------- */

/* The first index of `largest`; maxima must be of these scores. */
static int64_t largest_index(const ie_sampler *s, const float *scores) {
  int64_t b = 0;
  while (s->maxima[b] != s->largest) b++;
  int64_t i = b * BLOCK;
  while (scores[i] != s->largest) i++;
  return i;
}

/* The largest logit itself: for steps that cannot change which one it is. */
static ie_status greedy_direct(ie_sampler *s, const ie_sample_input *input, int32_t *id, ie_error *error) {
  ie_status status = input_check(s, input, error);
  if (status != IE_OK) return status;
  int64_t at = 0;
  if (s->kernels && s->kernels->max) {
    float most = s->kernels->max(input->logits, input->vocab, &at);
    if (!(most < INFINITY)) return bad_refuse(input, at, error);
    if (most == -INFINITY) return ie_error_set(error, IE_NUMERIC, "logits: all are -infinity");
  } else {
    status = largest_find(s, input->logits, input->vocab, error);
    int64_t bad = status == IE_OK ? -1 : bad_find(input->logits, input->vocab);
    if (bad >= 0) return bad_refuse(input, bad, error);
    if (status != IE_OK) return status;
    at = largest_index(s, input->logits);
  }
  *id = (int32_t)at;
  return IE_OK;
}

/* The first id among the largest. */
static ie_status greedy_find(ie_sampler *s, const ie_sample_input *input, int32_t *id, ie_error *error) {
  if (s->order_kept) return greedy_direct(s, input, id, error);
  ie_status status = row_run(s, input, error);
  if (status != IE_OK) return status;
  int64_t at = largest_index(s, s->scores);
  *id = s->listed ? s->ids[at] : (int32_t)at;
  return IE_OK;
}

/* The first candidate at which the running sum of weights exceeds u * total; u < 1. */
static int32_t weight_pick(const ie_sampler *s, double u) {
  double target = u * s->total, sum = 0;
  int64_t last = 0;
  for (int64_t b = 0; b < blocks_of(s->count); b++) {
    if (s->sums[b] <= 0) continue;
    int64_t end = ie_min_i64((b + 1) * BLOCK, s->count);
    bool here = sum + s->sums[b] > target;
    double inside = sum;
    for (int64_t i = b * BLOCK; here && i < end; i++) {
      if (s->weights[i] <= 0) continue;
      last = i;
      inside += (double)s->weights[i];
      if (inside > target) break;
    }
    if (here) return s->listed ? s->ids[last] : (int32_t)last;
    sum += s->sums[b];
  }
  /* only rounding of the sums leads here: the last candidate that has a weight */
  for (int64_t i = s->count - 1; i >= 0; i--)
    if (s->weights[i] > 0) return s->listed ? s->ids[i] : (int32_t)i;
  return s->listed ? s->ids[last] : (int32_t)last;
}

ie_status ie_sampler_probs(ie_sampler *s, const ie_sample_input *input, float *probs, ie_error *error) {
  int32_t id = 0;
  ie_status status = s->greedy ? greedy_find(s, input, &id, error) : row_run(s, input, error);
  if (status != IE_OK) return status;
  memset(probs, 0, (size_t)input->vocab * sizeof *probs);
  if (s->greedy) {
    probs[id] = 1;
    return IE_OK;
  }
  weights_find(s);
  for (int64_t i = 0; i < s->count; i++)
    probs[s->listed ? s->ids[i] : i] = (float)((double)s->weights[i] / s->total);
  return IE_OK;
}

ie_status ie_sampler_draw_many(ie_sampler *s, const ie_sample_input *input, int32_t *ids, size_t count,
                               ie_error *error) {
  if (count == 0) return IE_OK;
  ie_status status = s->greedy ? greedy_find(s, input, ids, error) : row_run(s, input, error);
  if (status != IE_OK) return status;
  if (!s->greedy) weights_find(s);
  for (size_t k = 0; k < count; k++)
    ids[k] = s->greedy ? ids[0] : weight_pick(s, ie_rng_f64(s->seed, input->row, input->step + k));
  return IE_OK;
}

ie_status ie_sampler_draw(ie_sampler *s, const ie_sample_input *input, int32_t *id, ie_error *error) {
  return ie_sampler_draw_many(s, input, id, 1, error);
}

ie_status ie_sampler_logprobs(ie_sampler *s, const ie_sample_input *input, int32_t id, float *logprob,
                              ie_sample_top *top, ie_error *error) {
  if (id < 0 || id >= input->vocab ||
      (top && (top->count > IE_SAMPLE_TOP_MAX || (int64_t)top->count > input->vocab)))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "log probabilities: id %d or count %zu beyond %lld ids",
                        (int)id, top ? top->count : 0, (long long)input->vocab);
  ie_status status = row_load(s, input, error);
  if (status == IE_OK) status = largest_find(s, s->scores, s->count, error);
  if (status != IE_OK) return status;
  weights_find(s);
  double base = (double)s->largest + log(s->total);
  if (logprob) *logprob = (float)((double)input->logits[id] - base);
  if (!top || !top->count) return IE_OK;
  double mass;
  float bound = bound_find(s, (int64_t)top->count);
  int64_t n = entries_collect(s, bound, /*weighted=*/false, &mass);
  cut_apply(s, ie_select_cut(s->entries, n, (double)top->count));
  /* insertion keeps equal scores in the order of their ids */
  for (size_t i = 0, used = 0; i < top->count; i++, used++) {
    float value = (float)((double)s->scores[i] - base);
    size_t k = used;
    for (; k > 0 && top->logprobs[k - 1] < value; k--) {
      top->logprobs[k] = top->logprobs[k - 1];
      top->ids[k] = top->ids[k - 1];
    }
    top->logprobs[k] = value;
    top->ids[k] = s->ids[i];
  }
  return IE_OK;
}
