#include "double/gradcheck.h"

#include "base/rng.h"
#include "base/size.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ENTRIES = 48, STEPS = 5, DIRECTIONS = 3 };
static const double tolerance = 1e-7;
/* Noise of the differences of a function of about 1, for gradients that are zero. */
static const double noise_floor = 1e-9;

double grad_noise(uint64_t stream, uint64_t i) {
  return 2.0 * ie_rng_f64(17, stream, i) - 1.0;
}

/* --- Setup --------------------------------------------------------------------------------------------------- */

static grad_variable *variable_new(grad_bench *b, const char *name, int rank, const int64_t *shape,
                                   double spread) {
  assert_true(b->variables < GRAD_VARIABLES);
  grad_variable *v = &b->variable[b->variables++];
  v->param = (ie_param){.name = (char *)name, .rank = rank, .count = 1};
  for (int i = 0; i < rank; i++) v->param.count *= shape[i];
  for (int i = 0; i < rank && i < 3; i++) v->param.shape[i] = shape[i];
  v->param.value = malloc((size_t)v->param.count * sizeof(real));
  v->param.grad = calloc((size_t)v->param.count, sizeof(real));
  assert_true(v->param.value && v->param.grad);
  for (int64_t i = 0; i < v->param.count; i++)
    v->param.value[i] = (real)(spread * grad_noise((uint64_t)b->variables, (uint64_t)i));
  return v;
}

int grad_input(grad_bench *b, const char *name, int rank, const int64_t *shape, double spread) {
  variable_new(b, name, rank, shape, spread)->is_input = true;
  return b->variables - 1;
}

ie_weight *grad_weight(grad_bench *b, const char *name, int64_t E, int64_t R, int64_t K, bool bias) {
  assert_true(b->weights < GRAD_WEIGHTS);
  ie_weight *w = &b->weight[b->weights++];
  ie_param *p = &variable_new(b, name, 3, (int64_t[]){E, R, K}, 0.7)->param;
  *w = (ie_weight){.name = name, .format = IE_W_F32, .experts = E, .rows = R, .cols = K, .param = p};
  w->part[0] = (const uint8_t *)p->value;
  w->row_bytes[0] = (size_t)K * sizeof(real);
  w->expert_bytes[0] = (size_t)R * w->row_bytes[0];
  ie_weight_choose(w, &b->device->kernels, IE_CLASS_F32);
  if (!bias) return w;
  w->bias_param = &variable_new(b, "bias", 2, (int64_t[]){E, R}, 0.5)->param;
  w->bias = w->bias_param->value;
  w->bias_dtype = IE_F32;
  w->bias_stride = R;
  return w;
}

ie_vector *grad_vector(grad_bench *b, const char *name, int64_t n) {
  assert_true(b->vectors < GRAD_WEIGHTS);
  ie_vector *v = &b->vector[b->vectors++];
  ie_param *p = &variable_new(b, name, 1, &n, 1.0)->param;
  *v = (ie_vector){.data = p->value, .dtype = IE_F32, .n = n, .param = p};
  return v;
}

void grad_batch(grad_bench *b, int64_t sequences, int64_t length, int32_t first, int32_t vocabulary) {
  int64_t n = sequences * length;
  b->ids = malloc((size_t)n * sizeof *b->ids);
  b->position = malloc((size_t)n * sizeof *b->position);
  b->sequence = malloc((size_t)n * sizeof *b->sequence);
  assert_true(b->ids && b->position && b->sequence);
  for (int64_t t = 0; t < n; t++) {
    b->ids[t] = (int32_t)(ie_rng_u64(5, 5, (uint64_t)t) % (uint64_t)vocabulary);
    b->position[t] = first + (int32_t)(t % length);
    b->sequence[t] = (int32_t)(t / length);
  }
  b->batch = (ie_batch){.tokens = n, .ids = b->ids, .position = b->position, .sequence = b->sequence};
}

static void bench_open(grad_bench *b, const grad_case *c) {
  ie_error error = {0};
  memset(b, 0, sizeof *b);
  b->variant = c->variant;
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 1}, &b->device, &error), IE_OK);
  b->ctx = (ie_ctx){.device = b->device, .cls = IE_CLASS_F32, .layer = -1};
  assert_int_equal(ie_arena_open((size_t)256 << 20, &b->ctx.arena, &error), IE_OK);
  assert_non_null(b->tape = ie_tape_new());
  c->setup(b);
}

static void bench_close(grad_bench *b) {
  for (int i = 0; i < b->variables; i++) free(b->variable[i].param.value), free(b->variable[i].param.grad);
  free(b->ids), free(b->position), free(b->sequence);
  ie_tape_free(b->tape);
  ie_arena_close(&b->ctx.arena);
  ie_device_free(b->device);
}

/* --- Runs ---------------------------------------------------------------------------------------------------- */

ie_tensor *grad_tensor(grad_bench *b, int input) {
  grad_variable *v = &b->variable[input];
  ie_tensor *t = ie_ctx_tensor(&b->ctx, IE_F32, v->param.rank, v->param.shape);
  if (!t) return NULL;
  memcpy(t->data, v->param.value, (size_t)v->param.count * sizeof(real));
  t->needs_grad = true;
  v->tensor = t;
  return t;
}

void grad_output(grad_bench *b, ie_tensor *y) {
  if (!y) return;
  assert_true(b->outputs < GRAD_OUTPUTS);
  b->output[b->outputs++] = y;
}

static double cotangent(int output, int64_t i) {
  return grad_noise(100 + (uint64_t)output, (uint64_t)i);
}

/* The function's value; with `gradients` also every variable's gradient. NaN after a failure. */
static double bench_run(grad_bench *b, const grad_case *c, bool gradients) {
  static const ie_tape_options options = {0};
  ie_ctx *ctx = &b->ctx;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  b->outputs = 0;
  b->loss = 0;
  for (int i = 0; i < b->variables; i++) b->variable[i].tensor = NULL;
  if (gradients)
    ie_tape_begin(ctx, b->tape, &options);
  else
    ie_tape_begin_forward(ctx, b->tape);
  c->run(b);
  double value = b->loss;
  for (int o = 0; o < b->outputs && ctx->status == IE_OK; o++) {
    real *dy = gradients ? ie_tape_grad(ctx, b->output[o]) : NULL;
    for (int64_t i = 0; i < ie_tensor_count(b->output[o]); i++) {
      value += cotangent(o, i) * (double)ie_tensor_f32(b->output[o])[i];
      if (dy) dy[i] += (real)cotangent(o, i);
    }
  }
  if (gradients) ie_tape_backward(ctx);
  for (int i = 0; gradients && i < b->variables && ctx->status == IE_OK; i++) {
    const grad_variable *v = &b->variable[i];
    if (v->is_input && v->tensor && v->tensor->has_grad)
      for (int64_t j = 0; j < v->param.count; j++) v->param.grad[j] += v->tensor->grad[j];
  }
  ie_tape_end(ctx);
  ie_ctx_reset(ctx, mark);
  return ctx->status == IE_OK ? value : (double)NAN;
}

/* --- Comparison ---------------------------------------------------------------------------------------------- */

typedef struct comparison {
  bool failed;
  double worst; /* of what was compared, relative */
  char where[128];
} comparison;

/* Variables += h * direction; direction NULL: entry `i` of variable `v` alone. */
static void variables_move(grad_bench *b, uint64_t direction, int v, int64_t i, double h) {
  if (direction == 0) {
    b->variable[v].param.value[i] += (real)h;
    return;
  }
  for (int k = 0; k < b->variables; k++)
    for (int64_t j = 0; j < b->variable[k].param.count; j++)
      b->variable[k].param.value[j] += (real)(h * grad_noise(direction + (uint64_t)k, (uint64_t)j));
}

/* The difference between the analytic and the numeric derivative, the best of all steps. */
static double derivative_error(grad_bench *b, const grad_case *c, uint64_t direction, int v, int64_t i,
                               double analytic) {
  static const double steps[STEPS] = {1e-4, 1e-5, 3e-4, 1e-3, 1e-6};
  double best = INFINITY;
  for (int s = 0; s < STEPS && best > noise_floor / 10; s++) {
    variables_move(b, direction, v, i, steps[s]);
    double up = bench_run(b, c, false);
    variables_move(b, direction, v, i, -2 * steps[s]);
    double down = bench_run(b, c, false);
    variables_move(b, direction, v, i, steps[s]);
    best = fmin(best, fabs((up - down) / (2 * steps[s]) - analytic));
  }
  return best;
}

static void note(comparison *r, double error, double size, const char *name, int64_t i) {
  double relative = error / fmax(size, 1e-300);
  bool bad = !(error <= tolerance * size + noise_floor);
  if (bad && !r->failed) {
    r->failed = true;
    snprintf(r->where, sizeof r->where, "%s, entry %lld: %.3g off beside %.3g", name, (long long)i, error,
             size);
  }
  if (size > 1e-3) r->worst = fmax(r->worst, relative);
}

static double largest(const ie_param *p, int64_t *at) {
  double most = 0;
  *at = 0;
  for (int64_t i = 0; i < p->count; i++)
    if (fabs((double)p->grad[i]) > most) most = fabs((double)p->grad[i]), *at = i;
  return most;
}

/* Entries of one variable: all, or every so many, and always the largest. */
static void variable_compare(grad_bench *b, const grad_case *c, int v, comparison *r) {
  const ie_param *p = &b->variable[v].param;
  int64_t at, step = ie_max_i64(1, p->count / ENTRIES);
  double size = largest(p, &at);
  for (int64_t i = 0; i < p->count; i += step)
    note(r, derivative_error(b, c, 0, v, i, (double)p->grad[i]), size, p->name, i);
  note(r, derivative_error(b, c, 0, v, at, (double)p->grad[at]), size, p->name, at);
}

/* The derivative along random directions of all variables, beside what its parts have. */
static void directions_compare(grad_bench *b, const grad_case *c, comparison *r) {
  for (uint64_t d = 0; d < DIRECTIONS; d++) {
    uint64_t stream = 1000 + d * GRAD_VARIABLES;
    double sum = 0, squares = 0;
    for (int k = 0; k < b->variables; k++)
      for (int64_t j = 0; j < b->variable[k].param.count; j++) {
        double part = grad_noise(stream + (uint64_t)k, (uint64_t)j) * (double)b->variable[k].param.grad[j];
        sum += part;
        squares += part * part;
      }
    note(r, derivative_error(b, c, stream, 0, 0, sum), fmax(fabs(sum), sqrt(squares)), "direction",
         (int64_t)d);
  }
}

/* --- The check of the check ---------------------------------------------------------------------------------- */

/* A planted error of 0.1%, in the whole gradient of a variable and in its largest entry, is found. */
static void planted_are_found(grad_bench *b, const grad_case *c) {
  for (int v = 0; v < b->variables; v++)
    for (int whole = 0; whole < 2; whole++) {
      ie_param *p = &b->variable[v].param;
      int64_t at;
      if (largest(p, &at) == 0) fail_msg("%s: %s has no gradient", c->name, p->name);
      real *kept = malloc((size_t)p->count * sizeof *kept);
      assert_non_null(kept);
      memcpy(kept, p->grad, (size_t)p->count * sizeof *kept);
      for (int64_t i = 0; i < p->count; i++)
        if (whole || i == at) p->grad[i] *= (real)1.001;
      comparison r = {0};
      variable_compare(b, c, v, &r);
      if (!r.failed) fail_msg("%s: an error of 0.1%% in %s was not found", c->name, p->name);
      memcpy(p->grad, kept, (size_t)p->count * sizeof *kept);
      free(kept);
    }
}

/* Without one of its launchers a case is refused, which shows that it ran them. */
static void missing_are_refused(const grad_case *c) {
  for (int i = 0; i < GRAD_LAUNCHERS && (i == 0 || c->launchers[i] != 0); i++) {
    grad_bench b;
    bench_open(&b, c);
    memset((char *)&b.device->ops + c->launchers[i], 0, sizeof(void (*)(void)));
    bench_run(&b, c, true);
    if (b.ctx.status != IE_UNSUPPORTED)
      fail_msg("%s without launcher %d: status %d: %s", c->name, i, (int)b.ctx.status, b.ctx.error.message);
    bench_close(&b);
  }
}

void grad_check(const grad_case *c) {
  grad_bench b;
  bench_open(&b, c);
  comparison r = {0};
  /* Gradients of parameters are added to what is there. */
  for (int v = 0; v < b.variables; v++)
    for (int64_t i = 0; i < b.variable[v].param.count; i++) b.variable[v].param.grad[i] = (real)(i % 7);
  bench_run(&b, c, true);
  for (int v = 0; v < b.variables; v++)
    for (int64_t i = 0; i < b.variable[v].param.count; i++) b.variable[v].param.grad[i] -= (real)(i % 7);
  if (b.ctx.status != IE_OK) fail_msg("%s: %s", c->name, b.ctx.error.message);
  for (int v = 0; v < b.variables; v++) variable_compare(&b, c, v, &r);
  directions_compare(&b, c, &r);
  if (b.ctx.status != IE_OK) fail_msg("%s: %s", c->name, b.ctx.error.message);
  if (r.failed) fail_msg("%s: %s", c->name, r.where);
  print_message("%-24s at most %.1e off\n", c->name, r.worst);
  planted_are_found(&b, c);
  bench_close(&b);
  missing_are_refused(c);
}
