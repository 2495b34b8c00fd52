/* train/param_class and train/groups: which group a parameter is in, and the group's rate. */
#include "train/groups.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

typedef struct named {
  const char *name;
  int rank;
  ie_param_class is;
} named;

/* Names as the architectures have them. */
static const named params[] = {
    {"model.embed_tokens.weight", 2, IE_PARAM_EMBEDDING},
    {"gpt_neox.embed_in.weight", 2, IE_PARAM_EMBEDDING},
    {"transformer.wte.weight", 2, IE_PARAM_EMBEDDING},
    {"lm_head.weight", 2, IE_PARAM_HEAD},
    {"embed_out.weight", 2, IE_PARAM_HEAD},
    {"model.layers.0.self_attn.q_proj.weight", 2, IE_PARAM_MATRIX},
    {"model.layers.0.mlp.router.weight", 2, IE_PARAM_MATRIX},
    {"model.layers.0.mlp.experts.gate_up_proj", 3, IE_PARAM_MATRIX},
    {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", 2, IE_PARAM_MATRIX},
    {"model.layers.0.mlp.experts.gate_up_proj_bias", 2, IE_PARAM_SCALAR},
    {"model.layers.0.self_attn.sinks", 1, IE_PARAM_SCALAR},
    {"model.layers.0.input_layernorm.weight", 1, IE_PARAM_SCALAR},
    {"gpt_neox.layers.0.attention.dense.bias", 1, IE_PARAM_SCALAR},
};
enum { PARAMS = sizeof params / sizeof params[0] };

static ie_param storage[PARAMS], *items[PARAMS];

static ie_model model_make(void) {
  for (size_t i = 0; i < PARAMS; i++) {
    storage[i] = (ie_param){.name = (char *)(uintptr_t)params[i].name, .rank = params[i].rank, .count = 8};
    items[i] = &storage[i];
  }
  return (ie_model){.params = {.item = items, .count = PARAMS}};
}

static void classes(void **state) {
  (void)state;
  model_make();
  for (size_t i = 0; i < PARAMS; i++)
    if (ie_param_class_of(&storage[i]) != params[i].is)
      fail_msg("%s: found %s", params[i].name, ie_param_class_name(ie_param_class_of(&storage[i])));
}

/* The rate that each class is stepped at, by the two factors of its group. */
static void rates_are(ie_train_options o, const double wanted[IE_PARAM_CLASSES]) {
  ie_model model = model_make();
  ie_train_groups groups;
  ie_train_group_plan plan[IE_TRAIN_GROUPS];
  assert_int_equal(ie_train_groups_make(&model, &o, &groups, NULL), IE_OK);
  ie_train_groups_describe(&groups, o.rate, plan);
  int64_t count = 0;
  for (int c = 0; c < IE_PARAM_CLASSES; c++) {
    assert_true(fabs(plan[c].rate - wanted[c]) <= 1e-12 * wanted[c]);
    assert_string_equal(plan[c].name, ie_param_class_name((ie_param_class)c));
    count += plan[c].tensors;
    for (int64_t i = 0; i < groups.group[c].count; i++)
      assert_int_equal(ie_param_class_of(groups.group[c].param[i]), c);
  }
  assert_int_equal(count, PARAMS);
  ie_train_groups_free(&groups);
}

static void rates(void **state) {
  (void)state;
  ie_train_options o = ie_train_options_default();
  o.rate = 2e-2;
  rates_are(o, (const double[]){2e-2, 2e-2, 2e-2, 2e-2});
  o.embedding_rate = 0.2, o.scalar_rate = 1e-3;
  rates_are(o, (const double[]){2e-2, 0.2, 2e-2, 1e-3});
  o.optimiser = IE_TRAIN_ADAMW8BIT;
  rates_are(o, (const double[]){2e-2, 0.2, 2e-2, 1e-3});
  o.optimiser = IE_TRAIN_MUON;
  rates_are(o, (const double[]){2e-2, 0.2, 3e-4, 1e-3});
  o.head_rate = 4e-3;
  rates_are(o, (const double[]){2e-2, 0.2, 4e-3, 1e-3});
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(classes), cmocka_unit_test(rates)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
