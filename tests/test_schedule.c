/* Learning-rate schedules against transformers' and PyTorch's numbers. */
#include "train/schedule.h"

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

static ie_schedule schedule(ie_schedule_kind kind) {
  return (ie_schedule){.kind = kind, .warmup = 10, .total = 60, .every = 1, .gamma = 1};
}

/* transformers 5.23, 10 steps of warm-up, 60 in all. */
static void test_transformers(void **state) {
  (void)state;
  static const struct {
    int64_t step;
    double cosine, linear;
  } known[] = {{0, 0, 0},
               {7, 0.7, 0.7},
               {10, 1, 1},
               {11, 0.9990133642141358, 0.98},
               {35, 0.5, 0.5},
               {42, 0.2871103542174637, 0.36},
               {59, 0.0009866357858642205, 0.02}};
  ie_schedule cosine = schedule(IE_SCHEDULE_COSINE), linear = schedule(IE_SCHEDULE_LINEAR),
              constant = schedule(IE_SCHEDULE_CONSTANT);
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    assert_true(fabs(ie_schedule_factor(&cosine, known[i].step) - known[i].cosine) < 1e-15);
    assert_true(fabs(ie_schedule_factor(&linear, known[i].step) - known[i].linear) < 1e-15);
    assert_true(fabs(ie_schedule_factor(&constant, known[i].step) -
                     (known[i].step < 10 ? known[i].linear : 1)) < 1e-15);
  }
  for (int64_t step = 60; step < 200; step += 7) { /* past the end they do not rise again */
    assert_true(ie_schedule_factor(&cosine, step) == 0);
    assert_true(ie_schedule_factor(&linear, step) == 0);
    assert_true(ie_schedule_factor(&constant, step) == 1);
  }
}

static void test_all_steps(void **state) {
  (void)state;
  const char *data = getenv("CLOCHER_TEST_DATA");
  if (!data) skip();
  char path[1024];
  snprintf(path, sizeof path, "%s/golden/training/schedules.json", data);
  json_t *root = json_load_file(path, 0, NULL);
  assert_non_null(root);
  const json_t *factors = json_object_get(root, "factor_at_step_0_to_59");
  ie_schedule s = {.warmup = json_integer_value(json_object_get(root, "warmup_steps")),
                   .total = json_integer_value(json_object_get(root, "total_steps"))};
  for (int k = 0; k < IE_SCHEDULE_STEP; k++) {
    s.kind = (ie_schedule_kind)k;
    const json_t *list = json_object_get(factors, ie_schedule_name(s.kind));
    assert_int_equal(json_array_size(list), 60);
    for (size_t i = 0; i < 60; i++)
      assert_true(fabs(ie_schedule_factor(&s, (int64_t)i) - json_number_value(json_array_get(list, i))) <=
                  1e-15);
  }
  json_decref(root);
}

static void test_step(void **state) {
  (void)state;
  ie_schedule s = {.kind = IE_SCHEDULE_STEP, .every = 3, .gamma = 0.5};
  static const double plain[] = {1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125};
  for (int i = 0; i < 10; i++) assert_true(ie_schedule_factor(&s, i) == plain[i]);
  s.final_factor = 0.2;
  assert_true(ie_schedule_factor(&s, 6) == 0.25 && ie_schedule_factor(&s, 9) == 0.2);
  s.warmup = 4; /* falls are counted from its end */
  assert_true(ie_schedule_factor(&s, 2) == 0.5 && ie_schedule_factor(&s, 6) == 1);
  assert_true(ie_schedule_factor(&s, 7) == 0.5);
}

static void test_final_factor(void **state) {
  (void)state;
  for (int k = IE_SCHEDULE_LINEAR; k <= IE_SCHEDULE_COSINE; k++) {
    ie_schedule s = schedule((ie_schedule_kind)k);
    s.final_factor = 0.1;
    assert_true(ie_schedule_factor(&s, 10) == 1);
    assert_true(fabs(ie_schedule_factor(&s, 35) - 0.55) < 1e-15);
    assert_true(fabs(ie_schedule_factor(&s, 60) - 0.1) < 1e-15);
    assert_true(fabs(ie_schedule_factor(&s, 99) - 0.1) < 1e-15);
    assert_true(ie_schedule_factor(&s, 5) == 0.5); /* the warm-up begins at 0 all the same */
  }
}

static void test_checks(void **state) {
  (void)state;
  const struct {
    ie_schedule s;
    const char *says;
  } wrong[] = {{{.warmup = -1}, "warm-up"},
               {{.final_factor = 1.5}, "final factor"},
               {{.final_factor = NAN}, "final factor"},
               {{.kind = IE_SCHEDULE_COSINE}, "cosine"},
               {{.kind = IE_SCHEDULE_LINEAR, .total = 5, .warmup = 6}, "linear"},
               {{.kind = IE_SCHEDULE_STEP, .gamma = 0.5}, "1 step"},
               {{.kind = IE_SCHEDULE_STEP, .every = 2}, "gamma"},
               {{.kind = IE_SCHEDULE_STEP, .every = 2, .gamma = 1.1}, "gamma"}};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    ie_error error = {0};
    assert_int_equal(ie_schedule_check(&wrong[i].s, &error), IE_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, wrong[i].says));
  }
  for (int k = 0; k < IE_SCHEDULE_COUNT; k++) {
    ie_schedule s = schedule((ie_schedule_kind)k);
    assert_int_equal(ie_schedule_check(&s, NULL), IE_OK);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_transformers), cmocka_unit_test(test_all_steps), cmocka_unit_test(test_step),
      cmocka_unit_test(test_final_factor), cmocka_unit_test(test_checks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
