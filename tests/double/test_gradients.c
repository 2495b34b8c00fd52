/* Every operation under a tape: its gradients against central differences in double (gradcheck.h). A new pair of
 * launchers fails here (every_launcher_is_covered) until a case names it. */
#include "double/gradcheck.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define SHAPE(...)                                                                                           \
  (const int64_t[]) {                                                                                        \
    __VA_ARGS__                                                                                              \
  }

/* --- Rows ---------------------------------------------------------------------------------------------------- */

static void embed_setup(grad_bench *b) {
  grad_batch(b, 1, 9, 0, 5); /* tokens come twice, some never */
  grad_weight(b, "embedding", 1, 7, 6, false);
}
static void embed_run(grad_bench *b) {
  grad_output(b, ie_op_embed(&b->ctx, &b->weight[0], &b->batch));
}

static const int32_t wanted[] = {1, 2, 4};
static void gather_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(5, 6), 1);
  b->batch = (ie_batch){.wanted = wanted, .wanted_count = 3};
}
static void gather_run(grad_bench *b) {
  grad_output(b, ie_op_gather_wanted(&b->ctx, grad_tensor(b, 0), &b->batch));
}

/* Variant 1: heads, 2: without a weight. */
static void rms_norm_setup(grad_bench *b) {
  if (b->variant == 1)
    grad_input(b, "x", 3, SHAPE(7, 3, 8), 1);
  else
    grad_input(b, "x", 2, SHAPE(70, 13), 1);
  if (b->variant < 2)
    grad_vector(b, "weight", b->variant == 1 ? 8 : 13);
  else
    b->vector[0] = (ie_vector){.n = 13};
}
static void rms_norm_run(grad_bench *b) {
  grad_output(b, ie_op_rms_norm(&b->ctx, grad_tensor(b, 0), &b->vector[0], 1e-3f));
}

static void layer_norm_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(70, 13), 1);
  grad_vector(b, "weight", 13);
  grad_vector(b, "bias", 13);
}
static void layer_norm_run(grad_bench *b) {
  grad_output(b, ie_op_layer_norm(&b->ctx, grad_tensor(b, 0), &b->vector[0], &b->vector[1], 1e-3f));
}

static void soft_cap_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(5, 11), 6);
}
static void soft_cap_run(grad_bench *b) {
  grad_output(b, ie_op_soft_cap(&b->ctx, grad_tensor(b, 0), 4.0f));
}

/* --- Products ------------------------------------------------------------------------------------------------ */

static void linear_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(5, 6), 1);
  grad_weight(b, "w", 1, 7, 6, b->variant == 1);
  if (b->variant == 2) grad_input(b, "residual", 2, SHAPE(5, 7), 1);
}
static void linear_run(grad_bench *b) {
  grad_output(b, ie_op_linear(&b->ctx, grad_tensor(b, 0), &b->weight[0]));
}
static void linear_residual_run(grad_bench *b) {
  grad_output(b, ie_op_linear_residual(&b->ctx, grad_tensor(b, 2), grad_tensor(b, 0), &b->weight[0]));
}
static void linear_activation_run(grad_bench *b) {
  grad_output(b, ie_op_linear_activation(&b->ctx, grad_tensor(b, 0), &b->weight[0],
                                         (ie_activation)(b->variant - 10)));
}

static ie_low_rank adapter;
static void adapter_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(5, 6), 1);
  ie_weight *w = grad_weight(b, "w", 1, 7, 6, true);
  adapter.a = *grad_weight(b, "a", 1, 2, 6, false);
  adapter.b = *grad_weight(b, "b", 1, 7, 2, false);
  adapter.scale = 1.5f;
  w->low_rank = &adapter;
}

static void qkv_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(5, 6), 1);
  if (b->variant == 1) {
    grad_weight(b, "qkv", 1, 3 * 2 * 4, 6, true);
    return;
  }
  grad_weight(b, "q", 1, 8, 6, true);
  grad_weight(b, "k", 1, 4, 6, true);
  grad_weight(b, "v", 1, 4, 6, false);
}
static void qkv_run(grad_bench *b) {
  ie_tensor *x = grad_tensor(b, 0);
  ie_qkv y = b->variant == 1 ? ie_op_qkv_interleaved(&b->ctx, x, &b->weight[0], 4)
                             : ie_op_qkv(&b->ctx, x, &b->weight[0], &b->weight[1], &b->weight[2], 4);
  grad_output(b, y.q), grad_output(b, y.k), grad_output(b, y.v);
}

static void swiglu_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(5, 6), 1);
  grad_weight(b, "gate", 1, 7, 6, false);
  grad_weight(b, "up", 1, 7, 6, false);
}
static void swiglu_run(grad_bench *b) {
  grad_output(b, ie_op_swiglu(&b->ctx, grad_tensor(b, 0), &b->weight[0], &b->weight[1]));
}

/* --- Attention ----------------------------------------------------------------------------------------------- */

static const float inv_freq[3] = {1.0f, 0.4f, 0.1f};

static void rope_setup(grad_bench *b) {
  grad_batch(b, 1, 5, 3, 2);
  grad_input(b, "x", 3, SHAPE(5, 2, 8), 1); /* 6 of 8 are turned */
}
static void rope_run(grad_bench *b) {
  ie_rope_table table = ie_op_rope_table(&b->ctx, &b->batch, inv_freq, 3, 1.3f, false);
  grad_output(b, ie_op_rope(&b->ctx, grad_tensor(b, 0), table));
}

enum {
  WINDOW = 1,
  SINKS = 2,
  PREFIX = 4,
  TILES = 8
}; /* TILES: more than one tile of queries, keys and prefix */
static void attention_setup(grad_bench *b) {
  bool prefix = b->variant & PREFIX;
  int64_t length = b->variant & TILES ? 67 : 6, P = b->variant & TILES ? 66 : 3;
  grad_batch(b, 2, length, prefix ? (int32_t)P : 0, 2);
  grad_input(b, "q", 3, SHAPE(2 * length, 4, 5), 2);
  grad_input(b, "k", 3, SHAPE(2 * length, 2, 5), 2);
  grad_input(b, "v", 3, SHAPE(2 * length, 2, 5), 1);
  if (prefix) {
    grad_input(b, "prefix k", 3, SHAPE(P, 2, 5), 2);
    grad_input(b, "prefix v", 3, SHAPE(P, 2, 5), 1);
  }
  if (b->variant & SINKS) grad_vector(b, "sinks", 4);
}
static void attention_run(grad_bench *b) {
  bool prefix = b->variant & PREFIX;
  b->kv = (ie_kv_layer){.dtype = IE_F32, .heads = 2, .dim = 5};
  b->kv.prefix_k = prefix ? grad_tensor(b, 3) : NULL;
  b->kv.prefix_v = prefix ? grad_tensor(b, 4) : NULL;
  int64_t window = b->variant & TILES ? 70 : 4;
  ie_attention_options options = {.scale = 0.6f, .window = b->variant & WINDOW ? window : 0};
  if (b->variant & SINKS) options.sinks = b->vector[0];
  ie_tensor *q = grad_tensor(b, 0);
  ie_op_kv_append(&b->ctx, &b->kv, grad_tensor(b, 1), grad_tensor(b, 2), &b->batch);
  grad_output(b, ie_op_attention(&b->ctx, q, &b->kv, &b->batch, &options));
}

/* --- Experts ------------------------------------------------------------------------------------------------- */

static void route_setup(grad_bench *b) {
  grad_input(b, "logits", 2, SHAPE(6, 5), 2);
}
static void route_run(grad_bench *b) {
  grad_output(b, ie_op_route(&b->ctx, grad_tensor(b, 0), &(ie_route_options){.top_k = 3}).weight);
}

/* The balance of layer 1, through the context. Its loss in double from the logits: E sum of f_e P_e, f a constant. */
static double balance_loss(const ie_tensor *logits, const ie_tensor *expert) {
  int64_t T = logits->shape[0], E = logits->shape[1], k = expert->shape[1];
  double loss = 0;
  for (int64_t t = 0; t < T; t++) {
    const real *l = ie_tensor_f32(logits) + t * E;
    double sum = 0;
    for (int64_t e = 0; e < E; e++) sum += exp((double)l[e]);
    for (int64_t i = 0; i < T * k; i++) loss += exp((double)l[ie_tensor_i32(expert)[i]]) / sum;
  }
  return loss * (double)E / (double)(T * T);
}
static void balance_run(grad_bench *b) {
  enum { LAYER = 1 };
  static ie_route_balance balance[LAYER + 1] = {[LAYER] = {.coefficient = 0.7}};
  b->ctx.layer = LAYER;
  b->ctx.balance = balance;
  ie_tensor *logits = grad_tensor(b, 0);
  ie_routing r = ie_op_route(&b->ctx, logits, &(ie_route_options){.top_k = 3});
  if (!r.expert) return;
  b->loss += 0.7 * balance_loss(logits, r.expert);
  grad_output(b, r.weight);
}

/* A router of its own chooses; limit 1 is reached by some. */
static void moe_setup(grad_bench *b) {
  grad_input(b, "x", 2, SHAPE(9, 6), 1);
  grad_input(b, "residual", 2, SHAPE(9, 6), 1);
  grad_weight(b, "router", 1, 4, 6, true);
  grad_weight(b, "gate_up", 4, 14, 6, true);
  grad_weight(b, "down", 4, 6, 7, true);
}
static void moe_run(grad_bench *b) {
  ie_tensor *x = grad_tensor(b, 0);
  ie_routing routing =
      ie_op_route(&b->ctx, ie_op_linear(&b->ctx, x, &b->weight[0]), &(ie_route_options){.top_k = 2});
  const ie_moe_options options = {.gate_up = &b->weight[1],
                                  .down = &b->weight[2],
                                  .activation = IE_MOE_SWIGLU_CLAMPED,
                                  .alpha = 1.702f,
                                  .limit = b->variant ? 1.0f : INFINITY};
  grad_output(b, ie_op_moe_residual(&b->ctx, grad_tensor(b, 1), x, routing, &options));
}

/* --- The loss ------------------------------------------------------------------------------------------------ */

enum { BIAS = 1, WEIGHTS = 2, IGNORED = 4, CAP = 8, TIED = 16, ADAPTER = 32 };
static void loss_setup(grad_bench *b) {
  grad_batch(b, 1, 6, 0, 9);
  if (!(b->variant & TIED)) grad_input(b, "x", 2, SHAPE(6, 5), 2);
  grad_weight(b, "head", 1, 9, 5, b->variant & BIAS);
  if (!(b->variant & ADAPTER)) return;
  grad_weight(b, "lora_A", 1, 2, 5, false);
  grad_weight(b, "lora_B", 1, 9, 2, false);
}
static void loss_run(grad_bench *b) {
  static const int32_t targets[2][6] = {{0, 3, 8, 8, 1, 5}, {0, -1, 8, -100, -1, 5}};
  static const float weights[6] = {1.0f, 0.5f, 0.0f, 2.0f, 3.0f, 0.25f};
  ie_tensor *x = b->variant & TIED ? ie_op_embed(&b->ctx, &b->weight[0], &b->batch) : grad_tensor(b, 0);
  ie_loss_options options = {.head = &b->weight[0],
                             .target = targets[b->variant & IGNORED ? 1 : 0],
                             .weight = b->variant & WEIGHTS ? weights : NULL,
                             .scale = 0.3,
                             .soft_cap = b->variant & CAP ? 2.0f : 0.0f};
  ie_weight adapted = b->weight[0];
  ie_low_rank low = {.a = b->weight[1], .b = b->weight[2], .scale = 0.75f};
  if (b->variant & ADAPTER) adapted.low_rank = &low;
  options.head = &adapted;
  b->loss += ie_op_cross_entropy(&b->ctx, x, &options);
}

/* --- The table ----------------------------------------------------------------------------------------------- */

#define L(name) GRAD_LAUNCHER(name)
#define RMS                                                                                                  \
  rms_norm_setup, rms_norm_run, {                                                                            \
    L(rms_norm), L(rms_norm_backward)                                                                        \
  }
#define LINEAR                                                                                               \
  { L(linear_train), L(linear_backward) }
#define ACT                                                                                                  \
  linear_setup, linear_activation_run, {                                                                     \
    L(activate), L(activate_backward), L(copy)                                                               \
  }
#define ATTEND                                                                                               \
  attention_setup, attention_run, {                                                                          \
    L(attention_train), L(attention_backward)                                                                \
  }
#define MOE                                                                                                  \
  moe_setup, moe_run, {                                                                                      \
    L(moe_train), L(moe_backward)                                                                            \
  }
#define LOSS                                                                                                 \
  loss_setup, loss_run, {                                                                                    \
    L(cross_entropy)                                                                                         \
  }
static const grad_case cases[] = {
    {"embed", 0, embed_setup, embed_run, {L(embed), L(embed_backward)}},
    {"gather_wanted", 0, gather_setup, gather_run, {L(gather_rows), L(gather_rows_backward)}},
    {"rms_norm", 0, RMS},
    {"rms_norm of heads", 1, RMS},
    {"rms_norm, no weight", 2, RMS},
    {"layer_norm", 0, layer_norm_setup, layer_norm_run, {L(layer_norm), L(layer_norm_backward)}},
    {"soft_cap", 0, soft_cap_setup, soft_cap_run, {L(soft_cap), L(soft_cap_backward)}},
    {"linear", 0, linear_setup, linear_run, LINEAR},
    {"linear, bias", 1, linear_setup, linear_run, LINEAR},
    {"linear_residual", 2, linear_setup, linear_residual_run, {L(linear_train), L(add), L(copy)}},
    {"adapter", 0, adapter_setup, linear_run, {L(linear_train), L(linear_backward), L(scale), L(zero)}},
    {"gelu", 10 + IE_GELU, ACT},
    {"gelu tanh", 10 + IE_GELU_TANH, ACT},
    {"relu2", 10 + IE_RELU2, ACT},
    {"qkv", 0, qkv_setup, qkv_run, LINEAR},
    {"qkv_interleaved", 1, qkv_setup, qkv_run, {L(split_heads), L(split_heads_backward)}},
    {"swiglu", 0, swiglu_setup, swiglu_run, {L(swiglu), L(swiglu_backward)}},
    {"rope", 0, rope_setup, rope_run, {L(rope_table), L(rope), L(rope_backward)}},
    {"attention", 0, ATTEND},
    {"attention, window", WINDOW, ATTEND},
    {"attention, sinks", SINKS | WINDOW, ATTEND},
    {"attention, prefix", PREFIX, ATTEND},
    {"attention, all", PREFIX | SINKS | WINDOW, ATTEND},
    {"attention, tiles", PREFIX | SINKS | WINDOW | TILES, ATTEND},
    {"route", 0, route_setup, route_run, {L(route), L(route_backward)}},
    {"route, balance", 0, route_setup, balance_run, {L(route), L(route_backward)}},
    {"moe", 0, MOE},
    {"moe, limit", 1, MOE},
    {"cross_entropy", 0, LOSS},
    {"cross_entropy, bias", BIAS | WEIGHTS, LOSS},
    {"cross_entropy, ignored", IGNORED, LOSS},
    {"cross_entropy, cap", CAP | BIAS | WEIGHTS | IGNORED, LOSS},
    {"cross_entropy, tied", TIED | CAP, LOSS},
    {"cross_entropy, adapter", ADAPTER | IGNORED, LOSS},
    {"cross_entropy, adapter and cap", ADAPTER | CAP | BIAS | WEIGHTS, LOSS},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static void gradients_agree(void **state) {
  grad_check(*state);
}

/* Every launcher of the table's second half stands in a case. */
static void every_launcher_is_covered(void **state) {
  (void)state;
  size_t first = offsetof(ie_device_ops, linear_train), size = sizeof(void (*)(void));
  for (size_t entry = first; entry < offsetof(ie_device_ops, embed_formats); entry += size) {
    bool found = false;
    for (int i = 0; i < CASES; i++)
      for (int k = 0; k < GRAD_LAUNCHERS; k++) found |= cases[i].launchers[k] == entry;
    if (!found) fail_msg("launcher %zu after linear_train has no case", (entry - first) / size);
  }
}

int main(void) {
  struct CMUnitTest tests[CASES + 1] = {cmocka_unit_test(every_launcher_is_covered)};
  for (int i = 0; i < CASES; i++)
    tests[i + 1] = (struct CMUnitTest){cases[i].name, gradients_agree, NULL, NULL, (void *)&cases[i]};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
