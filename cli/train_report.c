#include "train_report.h"

#include "clocher/bench.h"
#include "out.h"
#include "train_config.h"
#include "train_folder.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The best of three: a ceiling that another program pressed down would make utilisation look better than it is. */
static ie_matrix_probe ceiling_probe(ie_device *device) {
  ie_matrix_probe best = {0};
  for (int i = 0; i < 3; i++) {
    ie_matrix_probe probe;
    ie_probe_matrix(device, &probe);
    if (i == 0 || probe.matrix_tflop_s > best.matrix_tflop_s) best = probe;
  }
  return best;
}

ie_status train_report_open(train_report *r, cli_context *context, const train_settings *s,
                            const cli_engine *engine, int64_t first, ie_error *error) {
  *r = (train_report){.context = context, .s = s, .first = first, .start_s = cli_clock_s()};
  r->terminal = isatty(STDERR_FILENO);
  ie_matrix_probe probe = ceiling_probe(engine->device);
  r->peak_flop_s = 1e12 * probe.matrix_tflop_s;
  if (!context->common.quiet)
    cli_log(context, "clocher: %s, ceiling %.3f TFLOP/s (%s), precision %s", engine->info->architecture,
            probe.matrix_tflop_s, probe.matrix_kind, ie_precision_name(engine->info->precision));
  if (s->resume) train_config_changes(context, s, s->out);
  ie_status made = train_config_write(context, s, s->out, error);
  if (made != IE_OK) return made;
  r->metrics_path = s->metrics ? strdup(s->metrics) : cli_path_join(s->out, "metrics.jsonl");
  r->plot_path = s->plot ? strdup(s->plot) : cli_path_join(s->out, "loss.png");
  if (!r->metrics_path || !r->plot_path) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory");
  return train_metrics_open(r->metrics_path, first, &r->metrics, error);
}

void train_report_close(train_report *r) {
  train_report_line_end(r);
  if (r->metrics) fclose(r->metrics);
  free(r->metrics_path);
  free(r->plot_path);
  *r = (train_report){0};
}

static ie_status metrics_write(train_report *r, json_t *object, ie_error *error) {
  bool ok = cli_json_write(r->metrics, object) && fflush(r->metrics) == 0; /* which takes the object */
  return ok ? IE_OK : ie_error_set(error, IE_IO, "%s: cannot write: %s", r->metrics_path, strerror(errno));
}

void train_report_line_end(train_report *r) {
  if (r->line_open) fputc('\n', stderr);
  r->line_open = false;
}

/* A loss far above those of the last steps, or a layer most of whose experts nobody chooses. */
static void trouble_find(train_report *r, const ie_train_metrics *m) {
  enum { STEPS_SEEN = 20, CHOICES_SEEN = 8 };
  double share = m->step - r->first < STEPS_SEEN ? 0.2 : 0.05;
  bool spike = m->step - r->first > STEPS_SEEN && m->loss > r->loss_mean + 6 * r->loss_deviation + 0.2;
  double off = fabs(m->loss - r->loss_mean);
  if (m->step == r->first + 1) r->loss_mean = m->loss;
  r->loss_mean += share * (m->loss - r->loss_mean); /* a loss that stays high is no spike after a while */
  if (!spike) r->loss_deviation += share * (off - r->loss_deviation);
  bool before = r->warning[0] != '\0';
  int64_t experts = m->routers > 0 ? m->experts / m->routers : 0;
  r->warning[0] = '\0';
  if (spike)
    snprintf(r->warning, sizeof r->warning, "loss spike");
  else if (2 * m->worst_idle > experts && m->expert_mean >= CHOICES_SEEN)
    snprintf(r->warning, sizeof r->warning,
             "collapsed router: layer %" PRId64 ": %" PRId64 " of %" PRId64 " experts got no token",
             m->worst_layer, m->worst_idle, experts);
  r->trouble_began = r->warning[0] != '\0' && !before;
}

/* A warning of the kind that was shown less than a hundred steps ago is not shown again; the metrics have it. */
static bool warning_due(train_report *r, int64_t step) {
  enum { STEPS_QUIET = 100 };
  bool same = strcspn(r->warning, ":") == strcspn(r->warned, ":");
  if (!r->warning[0] || (same && step - r->warned_step < STEPS_QUIET)) return false;
  memcpy(r->warned, r->warning, sizeof r->warned);
  r->warned_step = step;
  return true;
}

static void time_left_print(double seconds) {
  int64_t s = (int64_t)fmin(seconds + 0.5, 3.6e8);
  if (s >= 3600)
    fprintf(stderr, "  %" PRId64 "h%02d left", s / 3600, (int)(s % 3600) / 60);
  else
    fprintf(stderr, "  %d:%02d left", (int)s / 60, (int)s % 60);
}

static void line_show(train_report *r, const ie_train_metrics *m, double mfu) {
  if (r->context->common.quiet) return;
  double now = cli_clock_s();
  bool last = m->step == r->s->steps, warn = warning_due(r, m->step);
  if (!last && !warn && now - r->shown_s < (r->terminal ? 0.2 : 5.0)) return;
  r->shown_s = now;
  double left = (now - r->start_s) / (double)(m->step - r->first) * (double)(r->s->steps - m->step);
  fprintf(stderr, "%sstep %" PRId64 "/%" PRId64 "  loss %.4f  lr %.2e  norm %.2f  %.0f tok/s  mfu %.1f%%",
          r->terminal ? "\r\033[K" : "", m->step, r->s->steps, m->loss, m->rate, m->grad_norm, m->tok_s,
          100 * mfu);
  time_left_print(left);
  r->line_open = true;
  if (!r->terminal || last || warn) train_report_line_end(r);
  if (warn) fprintf(stderr, "clocher: step %" PRId64 ": %s\n", m->step, r->warning);
}

/* [[tokens of each expert] of each layer with a router] */
static json_t *expert_tokens_json(const ie_train_metrics *m) {
  int64_t each = m->routers > 0 ? m->experts / m->routers : 0;
  json_t *layers = json_array();
  for (int64_t i = 0; i < m->routers; i++) {
    json_t *layer = json_array();
    for (int64_t e = 0; e < each; e++)
      json_array_append_new(layer, json_integer((json_int_t)m->expert_tokens[i * each + e]));
    json_array_append_new(layers, layer);
  }
  return layers;
}

ie_status train_report_step(train_report *r, const ie_train_metrics *m, ie_error *error) {
  double reached = m->step_s > 0 ? m->flop / m->step_s : 0;
  if (r->peak_flop_s > 0 && reached > r->peak_flop_s) { /* another program pressed the probe down */
    train_report_line_end(r);
    cli_log(r->context,
            "clocher: step %" PRId64
            ": %.3g FLOP/s are more than the ceiling that was probed; they are it from now on",
            m->step, reached);
    r->peak_flop_s = reached;
  }
  double mfu = r->peak_flop_s > 0 ? reached / r->peak_flop_s : 0;
  trouble_find(r, m);
  line_show(r, m, mfu);
  json_t *object = json_pack("{s:I,s:o,s:o,s:o,s:I,s:o,s:o,s:o,s:I}", "step", (json_int_t)m->step, "loss",
                             cli_json_number(m->loss), "lr", cli_json_number(m->rate), "grad_norm",
                             cli_json_number(m->grad_norm), "tokens", (json_int_t)m->tokens, "tok_s",
                             cli_json_number(m->tok_s), "mfu", cli_json_number(mfu), "elapsed_s",
                             cli_json_number(m->elapsed_s), "epoch", (json_int_t)m->epoch);
  if (object && m->balance > 0) {
    json_object_set_new(object, "balance", cli_json_number(m->balance));
    json_object_set_new(object, "idle_experts", cli_json_number(m->idle_experts));
    json_object_set_new(object, "expert_tokens", expert_tokens_json(m));
    json_object_set_new(object, "expert_tokens_min", json_integer((json_int_t)m->expert_min));
    json_object_set_new(object, "expert_tokens_mean", cli_json_number(m->expert_mean));
    json_object_set_new(object, "expert_tokens_max", json_integer((json_int_t)m->expert_max));
  }
  if (object && r->warning[0]) json_object_set_new(object, "warning", json_string(r->warning));
  return metrics_write(r, object, error);
}

ie_status train_report_evaluation(train_report *r, int64_t step, const ie_train_evaluation *e,
                                  ie_error *error) {
  train_report_line_end(r);
  cli_log(r->context, "step %" PRId64 "  valid loss %.4f  %.4f bits per byte (%" PRId64 " targets)", step,
          e->loss, e->bits_per_byte, e->targets);
  json_t *object =
      json_pack("{s:I,s:o,s:o,s:I}", "step", (json_int_t)step, "valid_loss", cli_json_number(e->loss),
                "bits_per_byte", cli_json_number(e->bits_per_byte), "valid_targets", (json_int_t)e->targets);
  return metrics_write(r, object, error);
}

ie_status train_report_sample(train_report *r, ie_model *model, const ie_tokenizer *tokenizer,
                              const char *prompt, int64_t step, ie_error *error) {
  enum { SAMPLE_TOK = 100 };
  ie_ids ids = {0};
  ie_state *state = NULL;
  ie_generate_result result = {0};
  ie_status status = ie_tokenizer_encode(tokenizer, prompt, strlen(prompt), NULL, &ids, error);
  if (status == IE_OK && ids.count == 0)
    status = ie_error_set(error, IE_INVALID_ARGUMENT, "--sample-prompt: no tokens in it");
  int64_t count = (int64_t)ids.count, most = ie_model_describe(model)->context_tok;
  if (status == IE_OK && count >= most)
    status =
        ie_error_set(error, IE_INVALID_ARGUMENT,
                     "--sample-prompt: %" PRId64 " tokens, the model's context is %" PRId64, count, most);
  const ie_state_options o = {.context_tok = count + SAMPLE_TOK < most ? count + SAMPLE_TOK : most,
                              .logits_tok = 1};
  if (status == IE_OK) status = ie_state_new(model, &o, &state, error);
  const ie_generate_options g = {.prompt = ids.ids,
                                 .prompt_count = count,
                                 .max_new = o.context_tok - count,
                                 .sample = {.temperature = 0.8f, .seed = (uint64_t)step},
                                 .tokenizer = tokenizer};
  if (status == IE_OK) status = ie_generate(state, 0, &g, &result, error);
  train_report_line_end(r);
  if (status == IE_OK)
    cli_log(r->context, "step %" PRId64 "  sample: %s%.*s", step, prompt, (int)result.text.size,
            (const char *)result.text.data);
  ie_generate_result_free(&result);
  ie_state_free(state);
  ie_ids_free(&ids);
  return status;
}

/* gnuplot reads the metrics through a filter of its own: columns step and loss, step and valid_loss. */
void train_report_end(train_report *r) {
  fflush(r->metrics);
  (void)train_plot_draw(r->context, r->metrics_path, r->plot_path, r->s->plot != NULL);
}

/* --- The plan -------------------------------------------------------------------------------------------------- */

static const char *flop_unit(double flop) {
  return flop < 1e12 ? "GFLOP" : flop < 1e15 ? "TFLOP" : "PFLOP";
}

static double flop_scaled(double flop) {
  return flop * (flop < 1e12 ? 1e-9 : flop < 1e15 ? 1e-12 : 1e-15);
}

ie_status train_report_plan(cli_context *context, ie_model *model, const ie_train_options *o,
                            ie_error *error) {
  ie_train_plan p;
  ie_status status = ie_train_plan_make(model, o, &p, error);
  if (status != IE_OK) return status;
  const ie_model_info *info = ie_model_describe(model);
  const struct {
    const char *what;
    size_t bytes;
  } lines[] = {{"parameters (f32 masters)", p.values},
               {"gradients", p.gradients},
               {"optimiser", p.states},
               {"activations of a forward", p.activations},
               {"data", p.data},
               {"program and frozen weights", p.other},
               {"peak", p.peak}};
  cli_out_printf(context, "%s: %" PRId64 " of %" PRId64 " parameters are trained\n", info->architecture,
                 p.parameters, p.parameters > info->parameters ? p.parameters : info->parameters);
  double flop = p.flop_per_step;
  cli_out_printf(context,
                 "%" PRId64 " steps of %" PRId64 " rows of %" PRId64
                 " tokens, %.3g %s a step, %.3g %s in all\n",
                 o->steps, o->rows, p.row_tokens, flop_scaled(flop), flop_unit(flop),
                 flop_scaled(flop * (double)o->steps), flop_unit(flop * (double)o->steps));
  for (int i = 0; i < IE_TRAIN_GROUPS; i++)
    if (p.group[i].tensors > 0)
      cli_out_printf(context, "  %-12s %5" PRId64 " tensors %12" PRId64 " parameters  %s, rate %g\n",
                     p.group[i].name, p.group[i].tensors, p.group[i].parameters, p.group[i].optimiser,
                     p.group[i].rate);
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
    cli_out_printf(context, "  %-28s %10.1f MB\n", lines[i].what, 1e-6 * (double)lines[i].bytes);
  uint64_t limit = context->common.memory;
  if (limit)
    cli_out_printf(context, "  %-28s %10.1f MB: %s\n", "--memory", 1e-6 * (double)limit,
                   p.peak <= limit ? "it fits" : "it does not fit");
  return IE_OK;
}
