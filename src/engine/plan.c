/* Where every byte would live, before anything is loaded. */
#include "engine/state.h"

#include <stdio.h>
#include <unistd.h>

/* The program itself, its stacks and tables, jansson's header objects, a tokenizer's pack: 4 MB with the demo model. */
static const size_t other_bytes = 8u << 20;

/* Memory of the machine; SIZE_MAX when the system does not say. */
static size_t physical_bytes(void) {
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
}

static void place_add(ie_plan *plan, const char *tensors, const char *where, size_t bytes) {
  if (bytes == 0 || plan->places == IE_PLAN_PLACES) return;
  ie_plan_place *place = &plan->place[plan->places++];
  snprintf(place->tensors, sizeof place->tensors, "%s", tensors);
  place->where = where;
  place->bytes = bytes;
}

ie_status ie_model_plan(const ie_model *model, const ie_plan_options *options, ie_plan *out,
                        ie_error *error) {
  *out = (ie_plan){0};
  ie_state_sizes s;
  ie_state_options state = {.context_tok = options->context_tok,
                            .sequences = options->sequences,
                            .chunk_tok = options->chunk_tok,
                            .rollback_tok = options->rollback_tok,
                            .kv = options->kv};
  ie_status status = ie_state_size(model, &state, &s, error);
  if (status != IE_OK) return status;
  size_t quantised = model->quantised_bytes, replaced = model->info.weights_replaced_bytes;
  size_t copied = model->info.weights_copied_bytes - quantised;
  size_t experts = model->expert_bytes, physical = physical_bytes();
  ie_plan plan = {.weights_bytes = model->info.weights_bytes, .kv_bytes = s.kv_bytes};
  plan.scratch_bytes = s.scratch_bytes + s.table_bytes;
  plan.other_bytes = other_bytes;
  /* A transposed weight is read once from its mapping and then only from its copy. The pages of a quantised one are
   * let go as soon as they are read. */
  plan.resident_weights_bytes = plan.weights_bytes - replaced + copied + quantised;
  plan.peak_bytes = plan.resident_weights_bytes + plan.kv_bytes + plan.scratch_bytes + plan.other_bytes;
  plan.minimum_bytes = plan.peak_bytes;
  plan.fits = plan.peak_bytes <= (options->memory_bytes ? options->memory_bytes : physical);
  place_add(&plan, copied ? "experts as stored" : "experts", "map", experts);
  place_add(&plan, "experts transposed at load", "ram", copied);
  place_add(&plan, quantised ? "norms, router and embedding" : "attention, norms, router, embedding and head",
            "map", plan.weights_bytes > experts + replaced ? plan.weights_bytes - experts - replaced : 0);
  place_add(&plan, "dense weights quantised at load", "ram", quantised);
  place_add(&plan, "keys and values", "ram", plan.kv_bytes);
  place_add(&plan, "activations", "ram", plan.scratch_bytes);
  place_add(&plan, "program", "ram", plan.other_bytes);
  *out = plan;
  return IE_OK;
}
