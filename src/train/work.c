#include "train/work.h"

#include "base/size.h"
#include "models/decoder.h"

/* Products of a step with one matrix: forward, backward to the input, and to the weight where it is trained. */
static double passes(const ie_param *param) {
  return param ? 3.0 : 2.0;
}

/* Multiply-adds of all matrices in a step, for one token. */
static double matrix_madds(const ie_model *model) {
  const ie_decoder *d = model->net;
  double madds = 0;
  for (size_t i = 0; i < model->linears.count; i++) {
    const ie_weight *w = model->linears.item[i].weight;
    if (model->linears.item[i].output) continue; /* head_madds */
    madds += passes(w->param) * (double)w->rows * (double)w->cols;
    const ie_low_rank *low = w->low_rank;
    if (low) madds += passes(low->a.param) * (double)low->a.rows * (double)(w->rows + w->cols);
  }
  for (int64_t i = 0; i < model->info.layers; i++) {
    const ie_moe_layer *m = &model->moe[i];
    if (!m->gate_up) continue;
    double one = (double)(m->gate_up->rows * m->gate_up->cols) + (double)(m->down->rows * m->down->cols);
    double router = (double)m->gate_up->experts * (double)d->C;
    madds += passes(m->gate_up->param) * (one * (double)m->top_k + router);
  }
  return madds;
}

/* Multiply-adds of the output matrix for a token that has a target: the others are left out. */
static double head_madds(const ie_model *model) {
  const ie_weight *head = &((const ie_decoder *)model->net)->head;
  const ie_low_rank *low = head->low_rank;
  double madds = passes(head->param) * (double)head->rows * (double)head->cols;
  if (low) madds += passes(low->a.param) * (double)low->a.rows * (double)(head->rows + head->cols);
  return madds;
}

/* Multiply-adds of attention in a step for the token at `position` of its sequence. */
static double attention_madds(const ie_model *model, int64_t position) {
  const ie_decoder *d = model->net;
  double keys = 0;
  for (int64_t i = 0; i < model->info.layers; i++) {
    int64_t window = model->kv[i].window;
    keys += (double)(window > 0 ? ie_min_i64(window, position + 1) : position + 1);
  }
  return 3.0 * keys * 2.0 * (double)(d->H * d->D);
}

double ie_model_step_flop(const ie_model *model, const ie_data_batch *b) {
  double madds = matrix_madds(model) * (double)b->dense->tokens;
  madds += head_madds(model) * (double)b->target_count;
  for (int64_t t = 0; t < b->dense->tokens; t++) madds += attention_madds(model, b->dense->position[t]);
  return 2.0 * madds;
}

double ie_model_step_flop_rows(const ie_model *model, int64_t rows, int64_t length) {
  double madds = (matrix_madds(model) + head_madds(model)) * (double)length;
  for (int64_t t = 0; t < length; t++) madds += attention_madds(model, t);
  return 2.0 * madds * (double)rows;
}
