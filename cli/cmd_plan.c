/* clocher plan: where every byte would live, before anything is loaded. */
#include "engine.h"
#include "out.h"

typedef struct settings {
  const char *model_dir;
  int64_t ctx, batch, chunk;
  int kv;
  bool json;
} settings;

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(settings, model_dir), .argument = "D", .required = true,
     .meaning = "Folder with config.json and weights (in D, D/hf, D/hf/original or D/original)."},
    {"--ctx", CLI_AS_INT(settings, ctx), .argument = "N", .min = 1, .max = 1 << 30,
     .meaning = "Context of each sequence; default: the model's own, at most 4096."},
    {"--batch", CLI_AS_INT(settings, batch), .argument = "B", .fallback = "1", .min = 1, .max = 1 << 20,
     .meaning = "Sequences."},
    {"--chunk", CLI_AS_INT(settings, chunk), .argument = "N", .fallback = "512", .min = 1, .max = 1 << 20,
     .meaning = "Prompt tokens per forward."},
    {"--kv", CLI_AS_CHOICE(settings, kv), .argument = "T", .fallback = "auto", .choices = cli_kv_names,
     .meaning = "Type of cached keys and values. auto: f32 for --precision fp32, else f16."},
    {"--json", CLI_AS_FLAG(settings, json), .meaning = "One JSON object."},
    {0},
};

static json_t *plan_json(const ie_plan *p) {
  json_t *places = json_array();
  for (int i = 0; places && i < p->places; i++)
    if (json_array_append_new(places, json_pack("{s:s, s:s, s:I}", "tensors", p->place[i].tensors, "where",
                                                p->place[i].where, "bytes", (json_int_t)p->place[i].bytes)) !=
        0) {
      json_decref(places);
      return NULL;
    }
  return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:o}", "weights_bytes",
                   (json_int_t)p->weights_bytes, "resident_weights_bytes",
                   (json_int_t)p->resident_weights_bytes, "kv_bytes", (json_int_t)p->kv_bytes,
                   "scratch_bytes", (json_int_t)p->scratch_bytes, "other_bytes", (json_int_t)p->other_bytes,
                   "peak_bytes", (json_int_t)p->peak_bytes, "minimum_bytes", (json_int_t)p->minimum_bytes,
                   "limit_bytes", p->limit_bytes > INT64_MAX ? INT64_MAX : (json_int_t)p->limit_bytes, "fits",
                   p->fits, "streamed_bytes_per_token", (json_int_t)p->streamed_bytes_per_tok, "placement",
                   places);
}

static void plan_print(cli_context *context, const ie_plan *p) {
  for (int i = 0; i < p->places; i++)
    cli_out_printf(context, "%14zu bytes  %-5s %s\n", p->place[i].bytes, p->place[i].where,
                   p->place[i].tensors);
  cli_out_printf(context, "%14zu bytes  peak (least possible: %zu)\n", p->peak_bytes, p->minimum_bytes);
  if (context->common.memory || !p->fits)
    cli_out_printf(context, "%14zu bytes  %s: %s\n", p->limit_bytes,
                   context->common.memory ? "limit" : "memory of the machine or its control group",
                   p->fits ? "fits" : "does not fit");
}

static int plan_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  cli_engine engine;
  ie_plan plan;
  ie_error error = {0};
  const ie_state_options state = {.context_tok = s->ctx,
                                  .sequences = s->batch,
                                  .chunk_tok = s->chunk,
                                  .kv = cli_kv_dtype(s->kv),
                                  .logits_tok = 1};
  const ie_plan_options o = cli_plan_options(context, &state);
  int code = CLI_OK;
  ie_status status = cli_engine_open(context, s->model_dir, /*plan_only=*/true, &engine, &error);
  if (status == IE_OK) status = ie_model_plan(engine.model, &o, &plan, &error);
  if (status != IE_OK)
    code = cli_fail(context, status, &error);
  else if (s->json)
    code = cli_out_json(context, plan_json(&plan));
  else
    plan_print(context, &plan);
  cli_engine_close(&engine);
  return code;
}

const cli_command cmd_plan = {
    .name = "plan",
    .summary = "Say where every byte would live, before loading anything",
    .usage = "--model-dir D [--ctx N] [--batch B] [--chunk N] [--kv T] [--memory SIZE] [--json]",
    .help = "peak = resident weights + keys and values + activations + the program itself. `map` is the page "
            "cache,\n"
            "which the system can take back; `ram` is memory of the process's own.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_MODEL,
    .run = plan_run,
};
