/* The engine against the reference implementation: logits, teacher-forced and free-running greedy ids, and the
 * arithmetic classes, for every golden model and every instruction set of this machine. */
#include "support/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const double logits_tolerance = 1e-4; /* of the largest logit, class fp32 */
static const float gap_decided = 2e-4f;      /* below it two ids are equally good */

typedef struct subject {
  const golden_model *golden;
  const char *isa;
  ie_device *device;
} subject;

static ie_model *open_model(const subject *s, ie_precision precision) {
  ie_error error = {0};
  ie_model *model;
  ie_status status =
      ie_model_open(s->device, s->golden->dir, &(ie_model_options){.precision = precision}, &model, &error);
  if (status != IE_OK) fail_msg("%s", error.message);
  return model;
}

static void logits_equal_reference(void **state) {
  const subject *s = *state;
  ie_model *model = open_model(s, IE_PRECISION_FP32);
  for (int i = 0; i < s->golden->count; i++) {
    const golden_case *c = &s->golden->cases[i];
    float *logits = golden_logits(model, c->ids, c->T, /*chunk=*/0);
    double error = golden_error(logits, c->logits, c->T * c->V);
    free(logits);
    if (!(error <= logits_tolerance)) fail_msg("%s case %d: error %.1e", s->golden->name, i, error);
  }
  ie_model_free(model);
}

/* What the tolerance must not let pass: zeros, and positions off by one. */
static void tolerance_rejects_wrong_programs(void **state) {
  const subject *s = *state;
  ie_model *model = open_model(s, IE_PRECISION_FP32);
  const golden_case *c = &s->golden->cases[1];
  float *zeros = calloc((size_t)(c->T * c->V), sizeof *zeros);
  assert_true(golden_error(zeros, c->logits, c->T * c->V) > 0.5);
  free(zeros);
  /* The first token twice: every other token stands one position late. */
  int32_t *late = malloc((size_t)(c->T + 1) * sizeof *late);
  late[0] = c->ids[0];
  memcpy(late + 1, c->ids, (size_t)c->T * sizeof *late);
  float *logits = golden_logits(model, late, c->T + 1, /*chunk=*/0);
  assert_true(golden_error(logits + c->V, c->logits, c->T * c->V) > 100 * logits_tolerance);
  free(logits);
  free(late);
  ie_model_free(model);
}

static int32_t best(const float *row, int64_t n) {
  int32_t at = 0;
  for (int64_t i = 1; i < n; i++)
    if (row[i] > row[at]) at = (int32_t)i;
  return at;
}

static void teacher_forced_ids_equal(void **state) {
  const subject *s = *state;
  ie_model *model = open_model(s, IE_PRECISION_FP32);
  for (int i = 0; i < s->golden->count; i++) {
    const golden_case *c = &s->golden->cases[i];
    int64_t T = c->T + c->new_tok - 1;
    int32_t *ids = malloc((size_t)T * sizeof *ids);
    memcpy(ids, c->ids, (size_t)c->T * sizeof *ids);
    memcpy(ids + c->T, c->greedy, (size_t)(c->new_tok - 1) * sizeof *ids);
    float *logits = golden_logits(model, ids, T, /*chunk=*/0);
    for (int64_t k = 0; k < c->new_tok; k++)
      if (c->gap[k] > gap_decided) assert_int_equal(best(logits + (c->T - 1 + k) * c->V, c->V), c->greedy[k]);
    free(logits);
    free(ids);
  }
  ie_model_free(model);
}

static void greedy_ids_equal(void **state) {
  const subject *s = *state;
  ie_error error = {0};
  ie_model *model = open_model(s, IE_PRECISION_FP32);
  for (int i = 0; i < s->golden->count; i++) {
    const golden_case *c = &s->golden->cases[i];
    ie_state *st;
    ie_generate_result r;
    assert_int_equal(ie_state_new(model, &(ie_state_options){.context_tok = c->T + c->new_tok}, &st, &error),
                     IE_OK);
    ie_generate_options o = {
        .prompt = c->ids, .prompt_count = c->T, .max_new = c->new_tok, .sample = {.greedy = true}};
    if (ie_generate(st, 0, &o, &r, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(r.ids.count, c->new_tok);
    for (int64_t k = 0; k < c->new_tok && c->gap[k] >= gap_decided; k++)
      assert_int_equal(r.ids.ids[k], c->greedy[k]);
    ie_generate_result_free(&r);
    ie_state_free(st);
  }
  ie_model_free(model);
}

typedef struct hidden_check {
  const golden_model *golden;
  int64_t width;
  int layers; /* how many were compared */
  double worst;
} hidden_check;

static ie_status compare_hidden(void *arg, int64_t layer, int64_t position, int64_t count,
                                const float *hidden, ie_error *error) {
  (void)error;
  hidden_check *h = arg;
  char name[32];
  snprintf(name, sizeof name, "hidden.%d", (int)layer);
  const ie_tensor_info *want = ie_tensor_file_get(h->golden->file, name);
  assert_non_null(want);
  assert_int_equal(position, 0);
  assert_int_equal(count, want->shape[0]);
  double e = golden_error(hidden, want->data, count * h->width);
  if (e > h->worst) h->worst = e;
  h->layers++;
  return IE_OK;
}

/* The residual stream of case 1 after the embedding and each layer: where two programs part. */
static void hidden_states_equal_reference(void **state) {
  const subject *s = *state;
  if (!ie_tensor_file_get(s->golden->file, "hidden.0")) skip();
  ie_error error = {0};
  ie_model *model = open_model(s, IE_PRECISION_FP32);
  const golden_case *c = &s->golden->cases[1];
  hidden_check h = {.golden = s->golden, .width = ie_model_describe(model)->width};
  ie_state *st;
  assert_int_equal(ie_state_new(model, &(ie_state_options){.context_tok = c->T}, &st, &error), IE_OK);
  ie_append_options o = {.hidden = compare_hidden, .arg = &h};
  if (ie_state_append(st, 0, c->ids, c->T, &o, &error) != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(h.layers, ie_model_describe(model)->layers + 1);
  if (!(h.worst <= logits_tolerance)) fail_msg("%s: %.1e", s->golden->name, h.worst);
  ie_state_free(st);
  ie_model_free(model);
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void class_within_rounding(const subject *s, ie_precision precision, double rounding) {
  if (rounding == 0) skip();
  ie_model *model = open_model(s, precision);
  const golden_case *c = &s->golden->cases[1];
  float *logits = golden_logits(model, c->ids, c->T, /*chunk=*/0);
  double *errors = malloc((size_t)c->T * sizeof *errors), largest = 0;
  for (int64_t i = 0; i < c->T * c->V; i++) largest = fmax(largest, fabs((double)c->logits[i]));
  for (int64_t t = 0; t < c->T; t++) {
    errors[t] = 0;
    for (int64_t v = 0; v < c->V; v++)
      errors[t] =
          fmax(errors[t], fabs((double)logits[t * c->V + v] - (double)c->logits[t * c->V + v]) / largest);
  }
  qsort(errors, (size_t)c->T, sizeof *errors, ascending);
  double median = errors[c->T / 2];
  print_message("    %s %s: median error %.4f, allowed %.4f\n", s->golden->name, ie_precision_name(precision),
                median, 2 * rounding + 1e-3);
  assert_true(median <= 2 * rounding + 1e-3);
  free(errors);
  free(logits);
  ie_model_free(model);
}

static void class_bf16_within_rounding(void **state) {
  const subject *s = *state;
  class_within_rounding(s, IE_PRECISION_BF16, s->golden->rounding_bf16);
}
static void class_int8_within_rounding(void **state) {
  const subject *s = *state;
  class_within_rounding(s, IE_PRECISION_INT8, s->golden->rounding_int8);
}

static const struct {
  const char *name;
  CMUnitTestFunction function;
} checks[] = {
    {"logits_equal_reference", logits_equal_reference},
    {"tolerance_rejects_wrong_programs", tolerance_rejects_wrong_programs},
    {"teacher_forced_ids_equal", teacher_forced_ids_equal},
    {"greedy_ids_equal", greedy_ids_equal},
    {"hidden_states_equal_reference", hidden_states_equal_reference},
    {"class_bf16_within_rounding", class_bf16_within_rounding},
    {"class_int8_within_rounding", class_int8_within_rounding},
};
enum { CHECKS = sizeof checks / sizeof checks[0], ISA_MAX = 4, SUBJECTS_MAX = GOLDEN_MODELS_MAX * ISA_MAX };

/* Stands for the larger models where there are none. */
static void models_of_test_data(void **state) {
  (void)state;
  skip();
}

int main(void) {
  static golden_model models[GOLDEN_MODELS_MAX];
  static subject subjects[SUBJECTS_MAX];
  static struct CMUnitTest tests[SUBJECTS_MAX * CHECKS + 1];
  static char names[SUBJECTS_MAX * CHECKS][128];
  ie_device *devices[ISA_MAX] = {0};
  const char *data = getenv("CLOCHER_TEST_DATA");
  int count = golden_open_all("tests/data/models", models, GOLDEN_MODELS_MAX);
  char shared[1024];
  if (data) {
    snprintf(shared, sizeof shared, "%s/golden/models", data);
    count += golden_open_all(shared, models + count, GOLDEN_MODELS_MAX - count);
  }
  int n = 0, t = 0;
  for (int i = 0; ie_device_isa_list()[i]; i++) {
    ie_error error;
    const char *isa = ie_device_isa_list()[i];
    if (ie_device_open(&(ie_device_options){.isa = isa}, &devices[i], &error) != IE_OK) return 1;
    for (int m = 0; m < count; m++) subjects[n++] = (subject){&models[m], isa, devices[i]};
  }
  for (int s = 0; s < n; s++)
    for (int c = 0; c < CHECKS; c++, t++) {
      snprintf(names[t], sizeof names[t], "%s %s %s", checks[c].name, subjects[s].golden->name,
               subjects[s].isa);
      tests[t] = (struct CMUnitTest){
          .name = names[t], .test_func = checks[c].function, .initial_state = &subjects[s]};
    }
  if (!data) tests[t++] = (struct CMUnitTest)cmocka_unit_test(models_of_test_data);
  int failed = count == 0 ? 1 : _cmocka_run_group_tests("golden", tests, (size_t)t, NULL, NULL);
  for (int m = 0; m < count; m++) golden_close(&models[m]);
  for (int i = 0; i < ISA_MAX; i++) ie_device_free(devices[i]);
  return failed;
}
