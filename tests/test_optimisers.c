/* Optimisers against PyTorch, Muon as published and bitsandbytes (tests/data/training, and the larger vectors of
 * CLOCHER_TEST_DATA); threads, instruction sets, saved states; clipping. */
#include "base/float.h"
#include "base/rng.h"
#include "clocher/device.h"
#include "clocher/tensor.h"
#include "support/params.h"
#include "support/tempdir.h"
#include "train/adamw8bit.h"
#include "train/clip.h"
#include "train/optimiser.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PARAMS_MAX = 8, STATES_MAX = 64 };

static ie_device *device_open(const char *isa, int threads) {
  ie_device *device;
  ie_error error = {0};
  const ie_device_options options = {.kind = "cpu", .isa = isa, .threads = threads, .affinity = "none"};
  if (ie_device_open(&options, &device, &error) != IE_OK) fail_msg("%s", error.message);
  return device;
}

static ie_optimiser *optimiser_make(ie_device *device, const ie_optimiser_group *groups, int count) {
  ie_optimiser *optimiser;
  ie_error error = {0};
  if (ie_optimiser_new(device, groups, count, &optimiser, &error) != IE_OK) fail_msg("%s", error.message);
  return optimiser;
}

/* ---- vectors of the reference ---- */

typedef struct reference {
  ie_tensor_file *file;
  bool shared;
} reference;

static reference reference_open(bool shared) {
  char path[1024] = "tests/data/training/optimisers.safetensors";
  const char *data = getenv("CLOCHER_TEST_DATA");
  if (shared && !data) skip();
  if (shared) snprintf(path, sizeof path, "%s/golden/training/optimisers.safetensors", data);
  ie_error error = {0};
  reference r = {.shared = shared};
  if (ie_tensor_file_open(path, &r.file, &error) != IE_OK) fail_msg("%s", error.message);
  return r;
}

static const ie_tensor_info *tensor_of(const reference *r, const char *name, const char *what) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", name, what);
  return ie_tensor_file_get(r->file, key);
}

static ie_param *param_of(const reference *r, const char *name) {
  const ie_tensor_info *start = tensor_of(r, name, "start");
  assert_non_null(start);
  ie_param *p = param_make(name, start->rank, start->shape);
  memcpy(p->value, start->data, start->bytes);
  return p;
}

/* Called after each step with the value before it and what the reference has now. */
typedef void (*step_check)(const ie_param *p, const float *before, const float *expected,
                           const float *expected_before, const char *what, int step);

static void reference_run(const reference *r, const char *name, const char *what, ie_optimiser_group group,
                          double rate, step_check check) {
  const ie_tensor_info *grads = tensor_of(r, name, "grads"), *values = tensor_of(r, name, what);
  assert_true(grads && values && grads->shape[0] == values->shape[0]);
  ie_device *device = device_open(NULL, 2);
  ie_param *p = param_of(r, name);
  const size_t bytes = (size_t)p->count * sizeof(float);
  float *before = malloc(bytes);
  group.param = &p;
  group.count = 1;
  ie_optimiser *o = optimiser_make(device, &group, 1);
  for (int t = 0; t < (int)grads->shape[0]; t++) {
    const float *expected = (const float *)values->data + t * p->count;
    memcpy(before, p->value, bytes);
    memcpy(p->grad, (const float *)grads->data + t * p->count, bytes);
    ie_optimiser_step(o, &(ie_step){.rate = rate, .number = t + 1});
    check(p, before, expected, t ? expected - p->count : tensor_of(r, name, "start")->data, what, t);
  }
  for (size_t i = 0; i < ie_optimiser_state_count(o); i++) { /* where the file has them: to the bit */
    ie_state_tensor state = ie_optimiser_state_at(o, i);
    char key[128];
    snprintf(key, sizeof key, "%s%s", what, strchr(state.name, '.'));
    key[strlen(key) - strlen(name) - 1] = 0;
    const ie_tensor_info *known = tensor_of(r, name, key);
    if (strncmp(state.name, "adamw.", 6) == 0 && !r->shared) assert_non_null(known);
    if (known) assert_memory_equal(state.data, known->data, known->bytes);
  }
  ie_optimiser_free(o);
  free(before);
  param_free(p);
  ie_device_free(device);
}

/* PyTorch's square root is MKL's, which may be off by one: so may the value, rarely. */
static void adamw_same(const ie_param *p, const float *before, const float *expected,
                       const float *expected_before, const char *what, int step) {
  (void)before, (void)expected_before;
  int64_t other = 0;
  for (int64_t i = 0; i < p->count; i++) {
    other += ie_f32_bits(p->value[i]) != ie_f32_bits(expected[i]);
    if (!(fabsf(p->value[i] - expected[i]) <= 1e-6f * fmaxf(fabsf(expected[i]), 0.01f)))
      fail_msg("%s %s step %d, element %td: expected %a, found %a", p->name, what, step, (ptrdiff_t)i,
               (double)expected[i], (double)p->value[i]);
  }
  if (other > p->count / 50 + 1) fail_msg("%s %s step %d: %td bits", p->name, what, step, (ptrdiff_t)other);
}

static ie_optimiser_group adamw_group(double beta1, double beta2, double eps, double decay) {
  ie_optimiser_group group = ie_optimiser_group_default(IE_OPTIMISER_ADAMW);
  group.adamw = (ie_adamw_options){beta1, beta2, eps, decay};
  return group;
}

static void adamw_run(bool shared) {
  static const char *const every[] = {"square", "tall", "wide", "vector", "stack"};
  reference r = reference_open(shared);
  for (int i = 0; i < (shared ? 4 : 5); i++) {
    reference_run(&r, every[i], "adamw", adamw_group(0.9, 0.95, 1e-8, 0.1), 1e-2, adamw_same);
    reference_run(&r, every[i], "adamw_defaults", ie_optimiser_group_default(IE_OPTIMISER_ADAMW), 1e-3,
                  adamw_same);
    if (!shared) /* a first moment that follows the gradient, no decay */
      reference_run(&r, every[i], "adamw_fast", adamw_group(0.3, 0.6, 1e-6, 0), 3e-3, adamw_same);
  }
  ie_tensor_file_free(r.file);
}

static void test_adamw(void **state) {
  (void)state;
  adamw_run(false);
}
static void test_adamw_shared(void **state) {
  (void)state;
  adamw_run(true);
}

/* Of each step's update: products in bfloat16 round by the order of their sums. */
static void update_near(const ie_param *p, const float *before, const float *expected,
                        const float *expected_before, const char *what, int step) {
  double off = 0, size = 0;
  for (int64_t i = 0; i < p->count; i++) {
    double a = (double)p->value[i] - (double)before[i], b = (double)expected[i] - (double)expected_before[i];
    off += (a - b) * (a - b);
    size += b * b;
  }
  if (!(off <= 0.02 * 0.02 * size))
    fail_msg("%s %s step %d: the update is off by %.3g of its norm", p->name, what, step, sqrt(off / size));
}

static void muon_run(bool shared) {
  static const char *const every[] = {"square", "tall", "wide", "stack"};
  reference r = reference_open(shared);
  for (int i = 0; i < (shared ? 3 : 4); i++)
    reference_run(&r, every[i], "muon", ie_optimiser_group_default(IE_OPTIMISER_MUON), 0.02, update_near);
  ie_tensor_file_free(r.file);
}

static void test_muon(void **state) {
  (void)state;
  muon_run(false);
}
static void test_muon_shared(void **state) {
  (void)state;
  muon_run(true);
}

/* Of the largest update: states are requantised at each step. */
static void adamw8bit_near(const ie_param *p, const float *before, const float *expected,
                           const float *expected_before, const char *what, int step) {
  double most = 0, off = 0;
  for (int64_t i = 0; i < p->count; i++) {
    double a = (double)p->value[i] - (double)before[i], b = (double)expected[i] - (double)expected_before[i];
    most = fmax(most, fabs(b));
    off = fmax(off, fabs(a - b));
  }
  if (!(off <= 1e-2 * most))
    fail_msg("%s step %d: an update is off by %.3g of the largest", what, step, off / most);
}

static void test_adamw8bit_shared(void **state) {
  (void)state;
  reference r = reference_open(true);
  reference_run(&r, "adamw8bit", "params", ie_optimiser_group_default(IE_OPTIMISER_ADAMW8BIT), 1e-3,
                adamw8bit_near);
  ie_tensor_file_free(r.file);
}

/* ---- 8 bits ---- */

static uint8_t nearest(const float *number, double x) {
  int best = 0;
  for (int i = 1; i < 256; i++)
    if (fabs((double)number[i] - x) < fabs((double)number[best] - x)) best = i;
  return (uint8_t)best;
}

static void test_dynamic_map(void **state) {
  (void)state;
  /* Published numbers: first and last of decades, and how many there are. */
  static const struct {
    int index;
    float number;
  } known[] = {{127, 0},
               {128, 5.50000038e-07f},
               {129, 3.25000019e-06f},
               {131, 2.12499981e-05f},
               {135, 0.000156250011f},
               {143, 0.00128124992f},
               {159, 0.0114062503f},
               {190, 0.0985937491f},
               {191, 0.107031256f},
               {254, 0.992968738f},
               {255, 1},
               {126, -5.50000038e-07f},
               {0, -0.992968738f}};
  static ie_dynamic_map signed_map, unsigned_map;
  ie_dynamic_map_fill(&signed_map, true);
  ie_dynamic_map_fill(&unsigned_map, false);
  assert_int_equal(signed_map.zero, 127);
  assert_int_equal(unsigned_map.zero, 0);
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    assert_true(fabsf(signed_map.number[known[i].index] - known[i].number) <=
                1.2e-7f * fabsf(known[i].number));
  assert_true(unsigned_map.number[255] == 1 && fabsf(unsigned_map.number[1] - 3.25e-7f) < 1e-13f);
  assert_true(fabsf(unsigned_map.number[254] - (1 - 0.9f / 256)) < 1e-7f);
  const ie_dynamic_map *maps[] = {&signed_map, &unsigned_map};
  for (int k = 0; k < 2; k++) {
    const ie_dynamic_map *map = maps[k];
    for (int i = 1; i < 256; i++) assert_true(map->number[i] > map->number[i - 1]);
    for (int i = 0; i < 65536; i += 7) { /* the nearest to a multiple of 2 / 65535 */
      double x = i * 2.0 / 65535 - 1;
      int code = ie_dynamic_map_encode(map, (float)x), best = nearest(map->number, x);
      assert_true(code == best ||
                  fabs(fabs((double)map->number[code] - x) - fabs((double)map->number[best] - x)) < 1e-7);
      assert_int_equal(ie_dynamic_map_encode(map, (float)(x + 1.2e-5)), code);
      assert_int_equal(ie_dynamic_map_encode(map, (float)(x - 1.2e-5)), code);
    }
    assert_int_equal(ie_dynamic_map_encode(map, 0.0f), map->zero);
    assert_int_equal(ie_dynamic_map_encode(map, -0.0f), map->zero);
    assert_int_equal(ie_dynamic_map_encode(map, 1.0f), 255);
    ie_dynamic_map_encode(map, NAN); /* any code */
  }
  assert_int_equal(ie_dynamic_map_encode(&signed_map, -1.0f), 0);
  assert_int_equal(ie_dynamic_map_encode(&unsigned_map, 1e-9f), 7); /* 1.5625e-5, not 0 */
}

/* The definition, one element at a time, in double but for what is stored. */
typedef struct plain8 {
  uint8_t first[2 * IE_ADAMW8BIT_LEAST], second[2 * IE_ADAMW8BIT_LEAST];
  float first_max[64], second_max[64];
  double value[2 * IE_ADAMW8BIT_LEAST];
} plain8;

static double multiple(double x) {
  return floor((x + 1) * 32767.5 + 0.5) / 32767.5 - 1;
}

static void plain8_block(plain8 *s, const ie_adamw8bit *maps, const float *g, int block, int n, int t) {
  double m[256], v[256], m_max = 0, v_max = 0;
  const double c1 = 1 - pow(0.9, t), c2 = sqrt(1 - pow(0.999, t));
  for (int i = 0; i < n; i++) {
    int at = block * 256 + i;
    double x = (double)g[at];
    m[i] = 0.9 * (double)maps->first.number[s->first[at]] * (double)s->first_max[block] + 0.1 * x;
    v[i] = 0.999 * (double)maps->second.number[s->second[at]] * (double)s->second_max[block] + 0.001 * x * x;
    m_max = fmax(m_max, fabs(m[i]));
    v_max = fmax(v_max, v[i]);
    s->value[at] *= 1 - 1e-3 * 0.01;
    s->value[at] -= 1e-3 / c1 * m[i] / (sqrt(v[i]) / c2 + 1e-8);
  }
  for (int i = 0; i < n; i++) {
    int at = block * 256 + i;
    s->first[at] = nearest(maps->first.number, multiple(m[i] / m_max));
    s->second[at] = nearest(maps->second.number, multiple(v[i] / v_max));
  }
  s->first_max[block] = (float)m_max;
  s->second_max[block] = (float)v_max;
}

/* An odd number of elements: the last block is short. A code may differ where a number lies on a limit. */
static void test_adamw8bit_definition(void **state) {
  (void)state;
  const int64_t n = IE_ADAMW8BIT_LEAST + 77;
  static plain8 plain;
  static ie_adamw8bit maps;
  ie_dynamic_map_fill(&maps.first, true);
  ie_dynamic_map_fill(&maps.second, false);
  ie_device *device = device_open(NULL, 2);
  ie_param *p = param_make("odd", 1, &n);
  ie_optimiser_group group = ie_optimiser_group_default(IE_OPTIMISER_ADAMW8BIT);
  group.param = &p, group.count = 1;
  ie_optimiser *o = optimiser_make(device, &group, 1);
  param_fill(p->value, n, 1, 0.1);
  for (int64_t i = 0; i < n; i++) plain.value[i] = (double)p->value[i];
  for (int t = 1; t <= 5; t++) {
    param_fill(p->grad, n, 10 + (uint64_t)t, t == 3 ? 0.01 : 1.0);
    ie_optimiser_step(o, &(ie_step){.rate = 1e-3, .number = t});
    for (int b = 0; b * 256 < n; b++)
      plain8_block(&plain, &maps, p->grad, b, (int)(n - b * 256 < 256 ? n - b * 256 : 256), t);
    int others = 0;
    const uint8_t *first = ie_optimiser_state_at(o, 0).data, *second = ie_optimiser_state_at(o, 1).data;
    for (int64_t i = 0; i < n; i++) others += first[i] != plain.first[i] || second[i] != plain.second[i];
    assert_true(others <= n / 500);
    int apart = 0;
    for (int64_t i = 0; i < n; i++) apart += !(fabs((double)p->value[i] - plain.value[i]) <= 2e-7);
    assert_true(apart <= n / 250);
    /* Go on from the same states. */
    memcpy(plain.first, first, (size_t)n), memcpy(plain.second, second, (size_t)n);
    memcpy(plain.first_max, ie_optimiser_state_at(o, 2).data, (size_t)((n + 255) / 256) * sizeof(float));
    memcpy(plain.second_max, ie_optimiser_state_at(o, 3).data, (size_t)((n + 255) / 256) * sizeof(float));
    for (int64_t i = 0; i < n; i++) plain.value[i] = (double)p->value[i];
  }
  ie_optimiser_free(o);
  param_free(p);
  ie_device_free(device);
}

/* ---- a small model of all kinds ---- */

typedef struct fleet {
  ie_param *param[PARAMS_MAX];
  ie_optimiser_group groups[3];
  int count, group_count;
} fleet;

static void fleet_make(fleet *f) {
  static const struct {
    const char *name;
    int rank;
    int64_t shape[3];
  } made[] = {{"model.layers.0.mlp.gate_up_proj", 3, {3, 20, 12}},
              {"model.layers.0.self_attn.q_proj.weight", 2, {33, 20}},
              {"model.layers.0.mlp.experts.down_proj_bias", 2, {3, 12}},
              {"model.embed_tokens.weight", 2, {150, 20}},
              {"model.norm.weight", 1, {20}},
              {"big", 2, {260, 257}},
              {"large.adamw", 2, {300, 129}},
              {"small.8bit", 1, {100}}};
  *f = (fleet){.count = PARAMS_MAX, .group_count = 3};
  for (int i = 0; i < f->count; i++) {
    f->param[i] = param_make(made[i].name, made[i].rank, made[i].shape);
    param_fill(f->param[i]->value, f->param[i]->count, 100 + (uint64_t)i, 0.3);
  }
  f->groups[0] = ie_optimiser_group_default(IE_OPTIMISER_MUON);
  f->groups[0].param = f->param, f->groups[0].count = 5;
  f->groups[1] = ie_optimiser_group_default(IE_OPTIMISER_ADAMW8BIT);
  f->groups[1].param = (ie_param *const[]){NULL};
  f->groups[2] = ie_optimiser_group_default(IE_OPTIMISER_ADAMW);
  f->groups[2].param = f->param + 6, f->groups[2].count = 1;
  f->groups[2].rate_factor = 0.5;
}

/* The 8-bit group is not contiguous in the list. */
static ie_optimiser *fleet_optimiser(fleet *f, ie_device *device) {
  ie_param *const eight[] = {f->param[5], f->param[7]};
  f->groups[1].param = eight, f->groups[1].count = 2;
  return optimiser_make(device, f->groups, f->group_count);
}

static void fleet_steps(fleet *f, ie_optimiser *o, int first, int last) {
  for (int t = first; t <= last; t++) {
    for (int i = 0; i < f->count; i++)
      param_fill(f->param[i]->grad, f->param[i]->count, 1000 * (uint64_t)t + (uint64_t)i, 1.0);
    ie_optimiser_step(o, &(ie_step){.rate = 1e-2 / t, .number = t, .grad_scale = 0.5f});
  }
}

static void fleet_same(const fleet *a, const fleet *b) {
  for (int i = 0; i < a->count; i++)
    for (int64_t j = 0; j < a->param[i]->count; j++)
      if (ie_f32_bits(a->param[i]->value[j]) != ie_f32_bits(b->param[i]->value[j]))
        fail_msg("%s, element %td: %a and %a", a->param[i]->name, (ptrdiff_t)j, (double)a->param[i]->value[j],
                 (double)b->param[i]->value[j]);
}

static void fleet_free(fleet *f) {
  for (int i = 0; i < f->count; i++) param_free(f->param[i]);
}

static void fleet_run(fleet *f, const char *isa, int threads, int steps) {
  ie_device *device = device_open(isa, threads);
  fleet_make(f);
  ie_optimiser *o = fleet_optimiser(f, device);
  fleet_steps(f, o, 1, steps);
  ie_optimiser_free(o);
  ie_device_free(device);
}

static void test_threads(void **state) {
  (void)state;
  fleet one, other;
  fleet_run(&one, NULL, 1, 3);
  for (int threads = 2; threads <= 5; threads++) {
    fleet_run(&other, NULL, threads, 3);
    fleet_same(&one, &other);
    fleet_free(&other);
  }
  fleet_free(&one);
}

/* Which kind each parameter got, and the memory told beforehand. */
static void test_kinds(void **state) {
  (void)state;
  static const char *const expected[] = {"muon.momentum.model.layers.0.mlp.gate_up_proj",
                                         "muon.momentum.model.layers.0.self_attn.q_proj.weight",
                                         "adamw.exp_avg.model.layers.0.mlp.experts.down_proj_bias",
                                         "adamw.exp_avg_sq.model.layers.0.mlp.experts.down_proj_bias",
                                         "adamw.exp_avg.model.embed_tokens.weight",
                                         "adamw.exp_avg_sq.model.embed_tokens.weight",
                                         "adamw.exp_avg.model.norm.weight",
                                         "adamw.exp_avg_sq.model.norm.weight",
                                         "adamw8bit.exp_avg.big",
                                         "adamw8bit.exp_avg_sq.big",
                                         "adamw8bit.exp_avg_absmax.big",
                                         "adamw8bit.exp_avg_sq_absmax.big",
                                         "adamw.exp_avg.small.8bit",
                                         "adamw.exp_avg_sq.small.8bit",
                                         "adamw.exp_avg.large.adamw",
                                         "adamw.exp_avg_sq.large.adamw"};
  fleet f;
  fleet_make(&f);
  ie_device *device = device_open(NULL, 1);
  ie_optimiser *o = fleet_optimiser(&f, device);
  assert_int_equal(ie_optimiser_state_count(o), sizeof expected / sizeof expected[0]);
  size_t bytes = 0, state_bytes, scratch_bytes;
  for (size_t i = 0; i < ie_optimiser_state_count(o); i++) {
    ie_state_tensor s = ie_optimiser_state_at(o, i);
    assert_string_equal(s.name, expected[i]);
    size_t count = 1;
    for (int d = 0; d < s.rank; d++) count *= (size_t)s.shape[d];
    bytes += count * ie_dtype_bytes(s.dtype);
  }
  ie_param *const eight[] = {f.param[5], f.param[7]};
  f.groups[1].param = eight;
  assert_int_equal(ie_optimiser_bytes(device, f.groups, 3, &state_bytes, &scratch_bytes, NULL), IE_OK);
  assert_int_equal(state_bytes, bytes);
  assert_true(scratch_bytes >= sizeof(real) * (2 * 20 * 33 + 3 * 20 * 20));
  ie_optimiser_free(o);
  ie_device_free(device);
  fleet_free(&f);
}

/* ---- saved states ---- */

static size_t states_of(const ie_optimiser *o, ie_state_tensor *states) {
  size_t count = ie_optimiser_state_count(o);
  assert_true(count <= STATES_MAX);
  for (size_t i = 0; i < count; i++) states[i] = ie_optimiser_state_at(o, i);
  return count;
}

static void test_resume(void **state) {
  (void)state;
  char *dir = tempdir_make();
  fleet whole, first, second;
  ie_state_tensor states[STATES_MAX];
  ie_error error = {0};
  fleet_run(&whole, NULL, 2, 6);
  ie_device *device = device_open(NULL, 3);
  fleet_make(&first);
  ie_optimiser *o = fleet_optimiser(&first, device);
  fleet_steps(&first, o, 1, 3);
  json_t *json = json_object();
  const ie_snapshot snapshot = {
      .dir = dir, .step = 3, .tensors = states, .count = states_of(o, states), .state = json};
  if (ie_snapshot_save(&snapshot, &error) != IE_OK) fail_msg("%s", error.message);
  ie_optimiser_free(o);
  json_decref(json);

  fleet_make(&second);
  for (int i = 0; i < first.count; i++)
    memcpy(second.param[i]->value, first.param[i]->value, (size_t)first.param[i]->count * sizeof(real));
  o = fleet_optimiser(&second, device);
  char *path = ie_snapshot_path(dir, 3);
  if (ie_snapshot_load(path, states, states_of(o, states), &json, &error) != IE_OK)
    fail_msg("%s", error.message);
  json_decref(json);
  free(path);
  fleet_steps(&second, o, 4, 6);
  fleet_same(&whole, &second);
  ie_optimiser_free(o);
  ie_device_free(device);
  fleet_free(&whole), fleet_free(&first), fleet_free(&second);
  tempdir_remove(dir);
}

/* ---- what is refused ---- */

static void test_refuses(void **state) {
  (void)state;
  ie_device *device = device_open(NULL, 1);
  const int64_t n = 4;
  ie_param *p = param_make("p", 1, &n), *twice[] = {p, p};
  for (int fault = 0; fault < 12; fault++) {
    ie_optimiser_group g = ie_optimiser_group_default(fault < 8 ? IE_OPTIMISER_ADAMW : IE_OPTIMISER_MUON);
    g.param = twice, g.count = fault == 7 ? 2 : 1;
    switch (fault) {
    case 0: g.rate_factor = -1; break;
    case 1: g.adamw.beta1 = 1; break;
    case 2: g.adamw.beta1 = -0.1; break;
    case 3: g.adamw.beta2 = NAN; break;
    case 4: g.adamw.eps = -1; break;
    case 5: g.adamw.weight_decay = -1; break;
    case 8: g.muon.momentum = 1; break;
    case 9: g.muon.steps = 0; break;
    case 10: g.rest_factor = -1; break;
    case 11: g.muon.weight_decay = -1; break;
    }
    real *grad = p->grad;
    if (fault == 6) p->grad = NULL;
    ie_error error = {0};
    ie_optimiser *o = (ie_optimiser *)(void *)&error;
    assert_int_equal(ie_optimiser_new(device, &g, 1, &o, &error), IE_INVALID_ARGUMENT);
    assert_null(o);
    assert_non_null(strstr(error.message, "expected"));
    p->grad = grad;
  }
  for (int k = 0; k < IE_OPTIMISER_COUNT; k++) assert_non_null(ie_optimiser_name((ie_optimiser_kind)k));
  ie_optimiser_free(NULL);
  param_free(p);
  ie_device_free(device);
}

/* ---- clipping ---- */

static void test_norm(void **state) {
  (void)state;
  fleet f;
  fleet_make(&f);
  double expected = 0, norm[4];
  for (int i = 0; i < f.count; i++) {
    param_fill(f.param[i]->grad, f.param[i]->count, 5 + (uint64_t)i, 1.0 + i);
    for (int64_t j = 0; j < f.param[i]->count; j++)
      expected += (double)f.param[i]->grad[j] * (double)f.param[i]->grad[j];
  }
  for (int threads = 1; threads <= 4; threads++) {
    ie_device *device = device_open(NULL, threads);
    assert_int_equal(ie_grad_norm(device, f.param, f.count, &norm[threads - 1], NULL), IE_OK);
    assert_true(norm[threads - 1] == norm[0]);
    ie_device_free(device);
  }
  assert_true(fabs(norm[0] - sqrt(expected)) < 1e-12 * sqrt(expected));

  ie_device *device = device_open(NULL, 2);
  f.param[5]->grad[7777] = NAN;
  ie_error error = {0};
  assert_int_equal(ie_grad_norm(device, f.param, f.count, norm, &error), IE_NUMERIC);
  assert_true(isnan(norm[0]) && strstr(error.message, "big") && strstr(error.message, "7777"));
  f.param[5]->grad[7777] = INFINITY;
  assert_int_equal(ie_grad_norm(device, f.param, f.count, norm, &error), IE_NUMERIC);
  assert_true(isinf(norm[0]));
  free(f.param[5]->grad); /* a parameter without gradient is left out */
  f.param[5]->grad = NULL;
  assert_int_equal(ie_grad_norm(device, f.param, f.count, norm, &error), IE_OK);
  assert_int_equal(ie_grad_norm(device, f.param, 0, norm, &error), IE_OK);
  assert_true(norm[0] == 0);
  ie_device_free(device);
  fleet_free(&f);
}

/* The scale of the step is that of scaled gradients, to the bit. */
static void test_clip(void **state) {
  (void)state;
  assert_true(ie_clip_scale(0.5, 1) == 1 && ie_clip_scale(0, 1) == 1);
  assert_true(ie_clip_scale(1.0, 1) < 1); /* 1e-6 is added to the norm */
  assert_true(fabsf(ie_clip_scale(8, 2) - 0.25f) < 1e-7f);
  ie_device *device = device_open(NULL, 2);
  const float scale = ie_clip_scale(3.7, 1);
  fleet a, b;
  fleet_make(&a), fleet_make(&b);
  ie_optimiser *oa = fleet_optimiser(&a, device), *ob = fleet_optimiser(&b, device);
  for (int i = 0; i < a.count; i++) {
    param_fill(a.param[i]->grad, a.param[i]->count, 5 + (uint64_t)i, 1.0);
    param_fill(b.param[i]->grad, b.param[i]->count, 5 + (uint64_t)i, 1.0);
  }
  for (int i = 0; i < b.count; i++)
    for (int64_t k = 0; k < b.param[i]->count; k++) b.param[i]->grad[k] *= scale;
  ie_optimiser_step(oa, &(ie_step){.rate = 0.01, .number = 1, .grad_scale = scale});
  ie_optimiser_step(ob, &(ie_step){.rate = 0.01, .number = 1});
  fleet_same(&a, &b);
  ie_optimiser_free(oa), ie_optimiser_free(ob);
  ie_device_free(device);
  fleet_free(&a), fleet_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_adamw),
      cmocka_unit_test(test_adamw_shared),
      cmocka_unit_test(test_muon),
      cmocka_unit_test(test_muon_shared),
      cmocka_unit_test(test_dynamic_map),
      cmocka_unit_test(test_adamw8bit_definition),
      cmocka_unit_test(test_adamw8bit_shared),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_kinds),
      cmocka_unit_test(test_resume),
      cmocka_unit_test(test_refuses),
      cmocka_unit_test(test_norm),
      cmocka_unit_test(test_clip),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
