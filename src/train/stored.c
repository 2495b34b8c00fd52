#include "train/stored.h"

#include "base/float.h"
#include "blocks/mxfp4.h"

#include <stdlib.h>
#include <string.h>

struct ie_stored {
  const ie_param_list *params;
  real **master; /* (params) */
};

void ie_stored_free(ie_stored *s) {
  if (!s) return;
  for (int64_t i = 0; s->master && i < s->params->count; i++) free(s->master[i]);
  free(s->master);
  free(s);
}

ie_status ie_stored_new(const ie_param_list *params, ie_stored **out, ie_error *error) {
  *out = NULL;
  ie_stored *s = calloc(1, sizeof *s);
  if (s) s->params = params;
  bool ok = s && (s->master = calloc((size_t)params->count + 1, sizeof *s->master));
  for (int64_t i = 0; ok && i < params->count; i++)
    ok = (s->master[i] = malloc((size_t)params->item[i]->count * sizeof **s->master)) != NULL;
  ie_status status = ok ? ie_stored_values(s, error)
                        : ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the masters' copies");
  if (status == IE_OK)
    *out = s;
  else
    ie_stored_free(s);
  return status;
}

void ie_stored_masters(ie_stored *s) {
  for (int64_t i = 0; i < s->params->count; i++)
    memcpy(s->params->item[i]->value, s->master[i], (size_t)s->params->item[i]->count * sizeof(real));
}

static ie_status mxfp4_round(ie_param *p, ie_error *error) {
  uint8_t codes[IE_MXFP4_BYTES], scale;
  for (int64_t i = 0; i < p->count; i += IE_MXFP4_COLS) {
    float block[IE_MXFP4_COLS];
    for (int k = 0; k < IE_MXFP4_COLS; k++) block[k] = (float)p->value[i + k];
    if (!ie_mxfp4_encode_block(codes, &scale, block, IE_MXFP4_OCP))
      return ie_error_set(error, IE_NUMERIC, "%s: a number that is not finite at %lld", p->name,
                          (long long)i);
    ie_mxfp4_decode_block(block, codes, scale);
    for (int k = 0; k < IE_MXFP4_COLS; k++) p->value[i + k] = block[k];
  }
  return IE_OK;
}

static void float_round(ie_param *p) {
  for (int64_t i = 0; i < p->count && p->store.dtype == IE_BF16; i++)
    p->value[i] = ie_f32_round_bf16((float)p->value[i]);
  for (int64_t i = 0; i < p->count && p->store.dtype == IE_F16; i++)
    p->value[i] = ie_f32_round_f16((float)p->value[i]);
}

ie_status ie_stored_values(ie_stored *s, ie_error *error) {
  ie_status status = IE_OK;
  for (int64_t i = 0; i < s->params->count && status == IE_OK; i++) {
    ie_param *p = s->params->item[i];
    memcpy(s->master[i], p->value, (size_t)p->count * sizeof(real));
    if (p->store.blocks)
      status = mxfp4_round(p, error);
    else
      float_round(p);
  }
  return status;
}
