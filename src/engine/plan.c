/* Where every byte would live, before anything is loaded; and bringing it there under a limit. */
#include "engine/placement.h"
#include "engine/streaming.h"
#include "models/decoder.h"

#include <stdio.h>

static void place_add(ie_plan *plan, const char *tensors, const char *where, size_t bytes) {
  if (bytes == 0 || plan->places == IE_PLAN_PLACES) return;
  ie_plan_place *place = &plan->place[plan->places++];
  snprintf(place->tensors, sizeof place->tensors, "%s", tensors);
  place->where = where;
  place->bytes = bytes;
}

static void places_mapped(ie_plan *plan, const ie_model *model, const ie_placement *p) {
  size_t experts = model->expert_bytes, quantised = model->quantised_bytes;
  size_t transposed = model->info.weights_copied_bytes - quantised;
  const char *map = model->device->memory ? ie_device_kind(model->device) : "map";
  const char *ram = model->device->memory ? map : "ram";
  size_t elsewhere = experts + model->info.weights_replaced_bytes + p->embed_disk_bytes;
  bool apart = p->rows_bytes > 0;
  place_add(plan, transposed ? "experts as stored" : "experts", map, experts);
  place_add(plan, "experts transposed at load", ram, transposed);
  place_add(plan,
            quantised ? apart ? "norms and router" : "norms, router and embedding"
            : apart   ? "attention, norms, router and head"
                      : "attention, norms, router, embedding and head",
            map, plan->weights_bytes > elsewhere ? plan->weights_bytes - elsewhere : 0);
  place_add(plan, "rows of the embedding that are looked up", map, p->rows_bytes);
  place_add(plan, "dense weights quantised at load", ram, quantised);
}

static void places_streamed(ie_plan *plan, const ie_placement *p) {
  char slots[64];
  place_add(plan, "experts", "disk", p->expert_disk_bytes);
  place_add(plan, "embedding", "disk", p->embed_disk_bytes);
  snprintf(slots, sizeof slots, "%lld experts at a time", (long long)p->slots);
  place_add(plan, slots, "ram", (size_t)p->slots * p->slot_bytes);
  place_add(plan,
            p->embed_streamed ? "attention, norms, router and head; rows of the embedding"
                              : "attention, norms, router, embedding and head",
            "ram", p->resident_bytes + p->rows_bytes);
}

/* A token's experts (top_k of each layer) and its row. */
static size_t streamed_per_token(const ie_model *model, const ie_placement *p) {
  const ie_decoder *d = model->net;
  size_t bytes = p->embed_streamed ? d->embed.row_bytes[0] : 0;
  for (int64_t i = 0; i < model->info.layers; i++) {
    const ie_moe_layer *m = &model->moe[i];
    if (!m->gate_up) continue;
    for (int k = 0; k < 2; k++)
      bytes += (size_t)m->top_k * (m->gate_up->expert_bytes[k] + m->down->expert_bytes[k]);
  }
  return bytes;
}

static ie_status placement_for(const ie_model *model, const ie_plan_options *options, ie_placement *out,
                               ie_error *error) {
  ie_state_sizes s;
  ie_status status = ie_state_size(model, &options->state, &s, error);
  if (status == IE_OK) ie_placement_make(model, &s, options->memory_bytes, out);
  return status;
}

ie_status ie_model_plan(const ie_model *model, const ie_plan_options *options, ie_plan *out,
                        ie_error *error) {
  *out = (ie_plan){0};
  ie_placement p;
  ie_status status = placement_for(model, options, &p, error);
  if (status != IE_OK) return status;
  ie_plan plan = {.weights_bytes = model->info.weights_bytes,
                  .resident_weights_bytes = p.resident_bytes + p.rows_bytes + (size_t)p.slots * p.slot_bytes,
                  .kv_bytes = p.kv_bytes,
                  .scratch_bytes = p.scratch_bytes,
                  .other_bytes = p.other_bytes,
                  .peak_bytes = p.peak_bytes,
                  .minimum_bytes = p.minimum_bytes,
                  .limit_bytes = p.limit_bytes,
                  .fits = p.fits,
                  .streamed_bytes_per_tok = p.streamed ? streamed_per_token(model, &p) : 0};
  if (p.streamed)
    places_streamed(&plan, &p);
  else
    places_mapped(&plan, model, &p);
  const char *where = model->device->memory ? ie_device_kind(model->device) : "ram";
  place_add(&plan, "keys and values", where, plan.kv_bytes);
  place_add(&plan, "activations", where, plan.scratch_bytes);
  place_add(&plan, "program", "ram", plan.other_bytes);
  *out = plan;
  return IE_OK;
}

ie_status ie_model_place(ie_model *model, const ie_plan_options *options, ie_error *error) {
  ie_placement p;
  if (!options->memory_bytes) return IE_OK;
  if (model->device->memory)
    return ie_error_set(error, IE_UNSUPPORTED,
                        "device %s: a memory limit (--memory) is not built there; --device cpu has it",
                        model->device->kind);
  if (model->plan_only || model->limited)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "the model %s",
                        model->limited ? "has its place already" : "was opened for planning only");
  ie_status status = placement_for(model, options, &p, error);
  if (status != IE_OK) return status;
  if (!p.fits)
    return ie_error_set(
        error, IE_LIMIT,
        "a limit of %zu bytes does not hold this: at least %zu are needed (keys and values %zu, "
        "activations %zu, other %zu, the rest weights)",
        options->memory_bytes, p.minimum_bytes, p.kv_bytes, p.scratch_bytes, p.other_bytes);
  if (p.streamed) status = ie_stream_open(model, &p, /*options=*/NULL, error);
  model->limited = status == IE_OK;
  return status;
}

void ie_model_stream_stats(const ie_model *model, ie_stream_stats *out) {
  *out = (ie_stream_stats){0};
  if (model->stream) ie_stream_describe(model->stream, out);
}
