#include "engine/cache.h"

#include "base/size.h"
#include "blocks/kv_int8.h"

enum { ARRAY_ALIGN = 64 };

int64_t ie_cache_slots(const ie_kv_spec *spec, int64_t context, int64_t chunk, int64_t rollback) {
  int64_t slots = context;
  if (spec->window > 0) slots = ie_min_i64(context, spec->window + chunk + rollback);
  return ie_div_up(slots, IE_CACHE_SLOT_UNIT) * IE_CACHE_SLOT_UNIT;
}

/* --- Place ----------------------------------------------------------------------------------------------- */

typedef struct taker {
  uint8_t *base;
  size_t bytes;
  bool overflow;
} taker;

/* The next array of (layer's sequences, layer's heads, rows, dim) numbers. */
static void *array_take(taker *t, const ie_kv_layer *layer, int64_t rows, int64_t dim, ie_dtype dtype) {
  size_t bytes = ie_dtype_bytes(dtype), begin = t->bytes;
  bool fits = ie_size_mul(bytes, (size_t)layer->sequences, &bytes) &&
              ie_size_mul(bytes, (size_t)layer->heads, &bytes) && ie_size_mul(bytes, (size_t)rows, &bytes) &&
              ie_size_mul(bytes, (size_t)dim, &bytes) && ie_size_add(bytes, ARRAY_ALIGN, &bytes) &&
              ie_size_add(t->bytes, ie_size_align(bytes - ARRAY_ALIGN, ARRAY_ALIGN), &t->bytes);
  if (!fits) t->overflow = true;
  return t->base && fits ? t->base + begin : NULL;
}

static void layer_take(taker *t, ie_kv_layer *layer, int64_t cap, ie_dtype dtype) {
  layer->dtype = dtype;
  layer->cap = cap;
  layer->k = array_take(t, layer, cap, layer->dim, dtype);
  layer->v = array_take(t, layer, cap, layer->dim, dtype);
}

bool ie_cache_place(const ie_kv_spec *spec, const ie_cache_options *o, uint8_t *base, size_t *bytes,
                    ie_kv_layer *layer, ie_kv_layer *recent) {
  taker t = {.base = base, .bytes = *bytes};
  int64_t cap = ie_cache_slots(spec, o->context, o->chunk, o->rollback);
  bool quantised = o->dtype == IE_I8 && spec->window == 0;
  *layer = (ie_kv_layer){.sequences = o->sequences, .heads = spec->heads, .dim = spec->dim};
  if (quantised) {
    *recent = *layer;
    layer->recent = recent;
    layer_take(&t, layer, cap, IE_I8);
    layer->k_scale = array_take(&t, layer, cap / IE_KV_GROUP, layer->dim, IE_BF16);
    layer->v_scale = array_take(&t, layer, cap, 1, IE_BF16);
    /* The group in which an append begins, and its tokens. */
    int64_t newest = ie_div_up(o->chunk, IE_KV_GROUP) * IE_KV_GROUP + IE_KV_GROUP;
    layer_take(&t, recent, ie_min_i64(newest, cap), o->exact_dtype);
  } else {
    layer_take(&t, layer, cap, o->dtype == IE_I8 ? o->exact_dtype : o->dtype);
  }
  *bytes = t.bytes;
  return !t.overflow;
}

/* --- Parts ----------------------------------------------------------------------------------------------- */

size_t ie_cache_row_bytes(const ie_cache_part *part) {
  return (size_t)part->dim * ie_dtype_bytes(part->dtype);
}

static ie_cache_part layer_part(const ie_kv_layer *layer, const char *name, void *data, int64_t begin,
                                int64_t end) {
  return (ie_cache_part){.name = name,
                         .dtype = layer->dtype,
                         .data = data,
                         .heads = layer->heads,
                         .cap = layer->cap,
                         .dim = layer->dim,
                         .begin = begin,
                         .end = end};
}

int ie_cache_parts(const ie_kv_layer *layer, int64_t first, int64_t n, ie_cache_part part[IE_CACHE_PARTS]) {
  if (layer->dtype != IE_I8) {
    part[0] = layer_part(layer, "k", layer->k, first, n);
    part[1] = layer_part(layer, "v", layer->v, first, n);
    return 2;
  }
  int64_t whole = n / IE_KV_GROUP * IE_KV_GROUP;
  part[0] = layer_part(layer, "k", layer->k, 0, whole);
  part[1] = layer_part(layer, "v", layer->v, 0, whole);
  part[2] = layer_part(layer, "k_scale", layer->k_scale, 0, whole / IE_KV_GROUP);
  part[2].dtype = IE_BF16;
  part[2].cap = layer->cap / IE_KV_GROUP;
  part[3] = layer_part(layer, "v_scale", layer->v_scale, 0, whole);
  part[3].dtype = IE_BF16;
  part[3].dim = 1;
  part[4] = layer_part(layer->recent, "k_recent", layer->recent->k, whole, n);
  part[5] = layer_part(layer->recent, "v_recent", layer->recent->v, whole, n);
  return 6;
}
