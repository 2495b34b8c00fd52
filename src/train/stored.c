#include "train/stored.h"

#include "base/float.h"
#include "base/size.h"
#include "blocks/mxfp4.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct ie_stored {
  const ie_param_list *params;
  ie_team *team;
  real **master; /* (params) */
};

void ie_stored_free(ie_stored *s) {
  if (!s) return;
  for (int64_t i = 0; s->master && i < s->params->count; i++) free(s->master[i]);
  free(s->master);
  free(s);
}

ie_status ie_stored_new(const ie_param_list *params, ie_team *team, ie_stored **out, ie_error *error) {
  *out = NULL;
  ie_stored *s = calloc(1, sizeof *s);
  if (s) *s = (ie_stored){.params = params, .team = team};
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

/* A parameter whose numbers are kept aside and rounded. */
typedef struct round_job {
  ie_param *p;
  real *master;
  atomic_bool *failed; /* a block with a number that is not finite */
} round_job;

/* Units of MXFP4's blocks, whatever the type. */
static void round_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const round_job *job = arg;
  int64_t first = begin * IE_MXFP4_COLS, last = ie_min_i64(end * IE_MXFP4_COLS, job->p->count);
  real *x = job->p->value;
  memcpy(job->master + first, x + first, (size_t)(last - first) * sizeof *x);
  if (!job->p->store.blocks) {
    for (int64_t i = first; i < last && job->p->store.dtype == IE_BF16; i++)
      x[i] = ie_f32_round_bf16((float)x[i]);
    for (int64_t i = first; i < last && job->p->store.dtype == IE_F16; i++)
      x[i] = ie_f32_round_f16((float)x[i]);
    return;
  }
  for (int64_t i = first; i < last; i += IE_MXFP4_COLS) {
    uint8_t codes[IE_MXFP4_BYTES], scale;
    float block[IE_MXFP4_COLS];
    for (int k = 0; k < IE_MXFP4_COLS; k++) block[k] = (float)x[i + k];
    if (!ie_mxfp4_encode_block(codes, &scale, block, IE_MXFP4_OCP)) {
      atomic_store(job->failed, true);
      continue;
    }
    ie_mxfp4_decode_block(block, codes, scale);
    for (int k = 0; k < IE_MXFP4_COLS; k++) x[i + k] = block[k];
  }
}

ie_status ie_stored_values(ie_stored *s, ie_error *error) {
  enum { CHUNK = 256 };
  ie_status status = IE_OK;
  for (int64_t i = 0; i < s->params->count; i++) { /* all masters are kept, also when one cannot be stored */
    atomic_bool failed = false;
    round_job job = {s->params->item[i], s->master[i], &failed};
    ie_team_for(s->team, ie_div_up(job.p->count, IE_MXFP4_COLS), CHUNK, round_part, &job);
    if (failed && status == IE_OK)
      status = ie_error_set(error, IE_NUMERIC, "%s: a number that is not finite", job.p->name);
  }
  return status;
}
