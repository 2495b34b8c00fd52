#include "models/bind_train.h"

#include "base/float.h"
#include "base/pages.h"
#include "base/rng.h"
#include "base/size.h"
#include "blocks/mxfp4.h"

#include <stdlib.h>
#include <string.h>

/* --- The list ----------------------------------------------------------------------------------------------- */

static void param_free(ie_param *p) {
  if (!p) return;
  free(p->name);
  free(p->store.tensor);
  free(p);
}

void ie_param_list_free(ie_param_list *list) {
  for (int64_t i = 0; i < list->count; i++) param_free(list->item[i]);
  free(list->item);
  *list = (ie_param_list){0};
}

static bool list_reserve(ie_param_list *list) {
  if (list->count < list->capacity) return true;
  int64_t capacity = list->capacity ? 2 * list->capacity : 64;
  ie_param **item = realloc(list->item, (size_t)capacity * sizeof *item);
  if (!item) return false;
  list->item = item;
  list->capacity = capacity;
  return true;
}

ie_param *ie_param_list_add(ie_param_list *list, const char *name, const char *tensor, int rank,
                            const int64_t *shape) {
  ie_param *p = list_reserve(list) ? calloc(1, sizeof *p) : NULL;
  if (!p) return NULL;
  p->name = strdup(name);
  p->store.tensor = strdup(tensor);
  if (!p->name || !p->store.tensor) {
    param_free(p);
    return NULL;
  }
  list->item[list->count++] = p;
  p->rank = rank;
  p->count = 1;
  for (int i = 0; i < rank; i++) p->count *= p->shape[i] = shape[i];
  return p;
}

/* A parameter of the entry's shape with memory for its master (none in a plan). */
static ie_param *param_new(ie_binder *b, const char *name, const char *hf, int rank, const int64_t *shape) {
  ie_param *p = ie_param_list_add(b->params, hf, name, rank, shape);
  if (!p) {
    b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "%s: out of memory for a parameter", name);
    return NULL;
  }
  b->owned_bytes += (size_t)p->count * sizeof(real);
  if (!b->plan_only) p->value = ie_bind_alloc(b, (size_t)p->count * sizeof(real));
  ie_pages_huge(p->value, (size_t)p->count * sizeof(real));
  return b->status == IE_OK ? p : NULL;
}

/* --- Reading what is published ------------------------------------------------------------------------------- */

static void elements_decode(real *y, const void *x, ie_dtype dtype, size_t first, int64_t n) {
  const float *f = (const float *)x + first;
  const uint16_t *h = (const uint16_t *)x + first;
  switch (dtype) {
  case IE_F16:
    for (int64_t i = 0; i < n; i++) y[i] = ie_f16_to_f32(h[i]);
    break;
  case IE_BF16:
    for (int64_t i = 0; i < n; i++) y[i] = ie_bf16_to_f32(h[i]);
    break;
  default:
    for (int64_t i = 0; i < n; i++) y[i] = f[i];
  }
}

/* The tensor's elements from `first` on, of a shape that is checked; its dtype is noted. */
static void plain_read(ie_binder *b, ie_param *p, const char *name, const int64_t *shape, size_t first) {
  const ie_tensor_info *t = ie_bind_find(b, name, shape, p->rank);
  if (!t || !ie_bind_float(b, t)) return;
  p->store.dtype = t->dtype;
  if (p->value) elements_decode(p->value, t->data, t->dtype, first, p->count);
}

/* (E, K, R) as published to (E, R, K). */
static void swapped_read(ie_binder *b, ie_param *p, const char *name) {
  int64_t E = p->shape[0], R = p->shape[1], K = p->shape[2];
  const ie_tensor_info *t = ie_bind_find(b, name, (int64_t[]){E, K, R}, 3);
  if (!t || !ie_bind_float(b, t)) return;
  p->store.dtype = t->dtype;
  for (int64_t e = 0; p->value && e < E; e++)
    for (int64_t r = 0; r < R; r++)
      for (int64_t k = 0; k < K; k++)
        elements_decode(&p->value[(e * R + r) * K + k], t->data, t->dtype, (size_t)((e * K + k) * R + r), 1);
}

static void mxfp4_read(ie_binder *b, ie_param *p, const char *name) {
  const ie_tensor_info *t[2];
  if (!ie_bind_mxfp4_find(b, name, p->store.blocks, p->store.scales, p->shape, t)) return;
  const uint8_t *blocks = t[0]->data, *scales = t[1]->data;
  for (int64_t i = 0; p->value && i < p->count / IE_MXFP4_COLS; i++) {
    float block[IE_MXFP4_COLS];
    ie_mxfp4_decode_block(block, blocks + i * IE_MXFP4_BYTES, scales[i]);
    for (int k = 0; k < IE_MXFP4_COLS; k++) p->value[i * IE_MXFP4_COLS + k] = block[k];
  }
}

/* --- Beginning from nothing ---------------------------------------------------------------------------------- */

static const double init_std = 0.02; /* of GPT-2 (Radford et al. 2019) and what followed it */

static bool name_has(const char *name, const char *const *parts) {
  for (; *parts; parts++)
    if (strstr(name, *parts)) return true;
  return false;
}

/* Two numbers of the normal distribution from a counter (Box & Muller 1958). */
static double normal_at(uint64_t seed, uint64_t stream, uint64_t n) {
  double u = ie_rng_f64(seed, stream, 2 * (n / 2)), v = ie_rng_f64(seed, stream, 2 * (n / 2) + 1);
  double radius = sqrt(-2.0 * log(1.0 - u)), angle = 6.283185307179586 * v;
  return radius * (n % 2 ? sin(angle) : cos(angle));
}

/* Matrices: normal, 0.02; those that end a residual branch divided by sqrt(2 layers) (GPT-2). Norms: ones. Biases and
 * sinks: zeros. The stream is the parameter's number, so a model of more layers begins with the same first ones. */
static void param_init(ie_binder *b, ie_param *p, bool bias) {
  static const char *const last[] = {"o_proj", "down_proj", "attention.dense", "dense_4h_to_h", "fc2",
                                     "c_proj", NULL};
  p->store.dtype = p->store.blocks ? IE_U8 : b->create_dtype;
  if (!p->value) return;
  bool vector = p->rank == 1 || bias;
  double one = vector && strstr(p->name, "norm") && strstr(p->name, "weight") ? 1.0 : 0.0;
  double std = name_has(p->name, last) ? init_std / sqrt(2.0 * (double)b->layers) : init_std;
  uint64_t stream = (uint64_t)b->params->count;
  for (int64_t i = 0; i < p->count; i++)
    p->value[i] = (real)(vector ? one : std * normal_at(b->seed, stream, (uint64_t)i));
}

/* --- The entry ------------------------------------------------------------------------------------------------ */

static void weight_attach(ie_binder *b, const ie_bind_entry *e, ie_weight *w, ie_param *p) {
  int64_t experts = p->rank == 3 ? p->shape[0] : 1;
  *w = (ie_weight){.name = p->name,
                   .format = IE_W_F32,
                   .experts = experts,
                   .rows = b->dims[e->rows],
                   .cols = b->dims[e->cols],
                   .param = p};
  w->part[0] = (const uint8_t *)p->value;
  ie_bind_weight_finish(b, e, w);
}

static void bias_attach(ie_binder *b, const ie_bind_entry *e, ie_weight *w, ie_param *p) {
  w->bias = p->value;
  w->bias_dtype = IE_F32;
  w->bias_stride = b->dims[e->rows];
  w->bias_param = p;
  b->parameters += p->count;
  if (p->rank == 2) b->expert_parameters += p->count;
}

static bool is_bias(const ie_bind_entry *e) {
  return e->kind == IE_BIND_BIAS || e->kind == IE_BIND_BIAS_ROWS;
}

/* The parameter's rank and shape, outermost first. */
static int entry_shape(const ie_binder *b, const ie_bind_entry *e, int64_t shape[3]) {
  int64_t rows = b->dims[e->rows], cols = b->dims[e->cols];
  int rank = 0;
  if (e->experts) shape[rank++] = b->dims[e->experts];
  if (e->kind != IE_BIND_VECTOR) shape[rank++] = e->padded ? b->dims[e->total] : rows;
  if (!is_bias(e)) shape[rank++] = cols;
  return rank;
}

void ie_bind_trained(ie_binder *b, const ie_bind_entry *e, const char *name, const char *hf, void *field) {
  int64_t shape[3];
  int rank = entry_shape(b, e, shape);
  if (e->kind == IE_BIND_MXFP4 && shape[2] % IE_MXFP4_COLS != 0) {
    b->status =
        ie_error_set(b->error, IE_FORMAT, "%s: MXFP4 needs a multiple of %d columns, config.json gives %lld",
                     name, IE_MXFP4_COLS, (long long)shape[2]);
    return;
  }
  ie_param *p = param_new(b, name, hf, rank, shape);
  if (!p) return;
  bool rows = (e->kind == IE_BIND_ROWS || e->kind == IE_BIND_BIAS_ROWS) && !e->padded;
  if (rows) {
    p->store.first = e->first ? b->dims[e->first] : 0;
    p->store.total = shape[0] = b->dims[e->total];
  }
  p->swapped = e->kind == IE_BIND_MXFP4 || e->kind == IE_BIND_EXPERTS;
  p->store.swapped = e->kind == IE_BIND_EXPERTS;
  p->store.blocks = e->blocks;
  p->store.scales = e->scales;
  if (b->create)
    param_init(b, p, is_bias(e));
  else if (e->kind == IE_BIND_MXFP4)
    mxfp4_read(b, p, name);
  else if (e->kind == IE_BIND_EXPERTS)
    swapped_read(b, p, name);
  else
    plain_read(b, p, name, shape, (size_t)(p->store.first * (rank == 2 ? shape[1] : 1)));
  if (e->kind == IE_BIND_MXFP4) p->store.dtype = IE_U8;
  if (b->status != IE_OK) return;
  if (is_bias(e)) {
    bias_attach(b, e, field, p);
  } else if (e->kind == IE_BIND_VECTOR) {
    *(ie_vector *)field = (ie_vector){.data = p->value, .dtype = IE_F32, .n = p->count, .param = p};
    b->parameters += p->count;
  } else {
    weight_attach(b, e, field, p);
  }
}
