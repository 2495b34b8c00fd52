#include "train/groups.h"

#include <assert.h>
#include <stdlib.h>

static_assert((int)IE_PARAM_CLASSES == (int)IE_TRAIN_GROUPS, "a group a class");

ie_optimiser_kind ie_train_kind(const ie_train_options *o) {
  static const ie_optimiser_kind kinds[] = {[IE_TRAIN_ADAMW] = IE_OPTIMISER_ADAMW,
                                            [IE_TRAIN_MUON] = IE_OPTIMISER_MUON,
                                            [IE_TRAIN_ADAMW8BIT] = IE_OPTIMISER_ADAMW8BIT};
  return kinds[o->optimiser];
}

/* What the options say of a class; 0: nothing, it has the run's rate. */
static double own_rate(const ie_train_options *o, ie_param_class what) {
  switch (what) {
  case IE_PARAM_EMBEDDING: return o->embedding_rate;
  case IE_PARAM_HEAD: return o->head_rate;
  case IE_PARAM_SCALAR: return o->scalar_rate;
  default: return 0;
  }
}

static ie_optimiser_group group_make(const ie_train_options *o, ie_param_class what) {
  ie_optimiser_group group = ie_optimiser_group_default(ie_train_kind(o));
  bool muon = o->optimiser == IE_TRAIN_MUON;
  double rate = own_rate(o, what);
  if (muon)
    group.muon.weight_decay = o->weight_decay;
  else
    group.adamw = (ie_adamw_options){
        .beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .weight_decay = o->weight_decay};
  if (rate > 0 && muon) group.rest_factor = rate / o->rate;
  if (rate > 0 && !muon) group.rate_factor = rate / o->rate;
  return group;
}

ie_status ie_train_groups_make(const ie_model *model, const ie_train_options *o, ie_train_groups *out,
                               ie_error *error) {
  const ie_param_list *params = &model->params;
  int64_t at = 0;
  *out = (ie_train_groups){.param = calloc((size_t)params->count + 1, sizeof *out->param)};
  if (!out->param) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the optimiser's groups");
  for (int c = 0; c < IE_PARAM_CLASSES; c++) {
    ie_optimiser_group *group = &out->group[c];
    *group = group_make(o, (ie_param_class)c);
    group->param = out->param + at;
    for (int64_t i = 0; i < params->count; i++)
      if (ie_param_class_of(params->item[i]) == (ie_param_class)c) out->param[at++] = params->item[i];
    group->count = out->param + at - group->param;
  }
  return IE_OK;
}

void ie_train_groups_free(ie_train_groups *groups) {
  free(groups->param);
  *groups = (ie_train_groups){0};
}

void ie_train_groups_describe(const ie_train_groups *groups, double rate,
                              ie_train_group_plan out[IE_TRAIN_GROUPS]) {
  for (int c = 0; c < IE_PARAM_CLASSES; c++) {
    const ie_optimiser_group *g = &groups->group[c];
    bool rest = g->kind == IE_OPTIMISER_MUON && c != IE_PARAM_MATRIX;
    out[c] = (ie_train_group_plan){.name = ie_param_class_name((ie_param_class)c),
                                   .optimiser = ie_optimiser_name(rest ? IE_OPTIMISER_ADAMW : g->kind),
                                   .rate = rate * g->rate_factor * (rest ? g->rest_factor : 1),
                                   .tensors = g->count};
    for (int64_t i = 0; i < g->count; i++) out[c].parameters += g->param[i]->count;
  }
}
