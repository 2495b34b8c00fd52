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

ie_status train_report_open(train_report *r, cli_context *context, const train_settings *s,
                            const cli_engine *engine, int64_t first, ie_error *error) {
  *r = (train_report){.context = context, .s = s, .first = first, .start_s = cli_clock_s()};
  r->terminal = isatty(STDERR_FILENO);
  ie_matrix_probe probe;
  ie_probe_matrix(engine->device, &probe);
  r->peak_flop_s = 1e12 * probe.matrix_tflop_s;
  if (!context->common.quiet)
    cli_log(context, "clocher: %s, ceiling %.3f TFLOP/s (%s), precision %s", engine->info->architecture,
            probe.matrix_tflop_s, probe.matrix_kind, ie_precision_name(engine->info->precision));
  ie_status made = train_folder_make(s->out, error);
  if (made == IE_OK) made = train_config_write(context, s, s->out, error);
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
  bool ok = object && cli_json_write(r->metrics, object) && fflush(r->metrics) == 0;
  json_decref(object);
  return ok ? IE_OK : ie_error_set(error, IE_IO, "%s: cannot write: %s", r->metrics_path, strerror(errno));
}

void train_report_line_end(train_report *r) {
  if (r->line_open) fputc('\n', stderr);
  r->line_open = false;
}

/* A loss far above those of the last steps, or experts that nobody chooses. */
static const char *trouble(train_report *r, const ie_train_metrics *m) {
  enum { STEPS_SEEN = 20, CHOICES_SEEN = 8 };
  double share = m->step - r->first < STEPS_SEEN ? 0.2 : 0.05;
  bool spike = m->step - r->first > STEPS_SEEN && m->loss > r->loss_mean + 6 * r->loss_deviation + 0.2;
  double off = fabs(m->loss - r->loss_mean);
  if (m->step == r->first + 1) r->loss_mean = m->loss;
  r->loss_mean += share * (m->loss - r->loss_mean); /* a loss that stays high is no spike after a while */
  if (!spike) r->loss_deviation += share * (off - r->loss_deviation);
  if (spike) return "loss spike";
  bool collapsed = m->idle_experts > 0.5 && m->expert_mean >= CHOICES_SEEN;
  return collapsed ? "collapsed router: more than half of the experts got no token" : NULL;
}

/* A warning that was shown less than a hundred steps ago is not shown again; the metrics have it. */
static bool warning_due(train_report *r, const char *warning, int64_t step) {
  enum { STEPS_QUIET = 100 };
  if (!warning || (warning == r->warned && step - r->warned_step < STEPS_QUIET)) return false;
  r->warned = warning;
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

static void line_show(train_report *r, const ie_train_metrics *m, double mfu, const char *warning) {
  if (r->context->common.quiet) return;
  double now = cli_clock_s();
  bool last = m->step == r->s->steps, warn = warning_due(r, warning, m->step);
  if (!last && !warn && now - r->shown_s < (r->terminal ? 0.2 : 5.0)) return;
  r->shown_s = now;
  double left = (now - r->start_s) / (double)(m->step - r->first) * (double)(r->s->steps - m->step);
  fprintf(stderr, "%sstep %" PRId64 "/%" PRId64 "  loss %.4f  lr %.2e  norm %.2f  %.0f tok/s  mfu %.1f%%",
          r->terminal ? "\r\033[K" : "", m->step, r->s->steps, m->loss, m->rate, m->grad_norm, m->tok_s,
          100 * mfu);
  time_left_print(left);
  r->line_open = true;
  if (!r->terminal || last || warn) train_report_line_end(r);
  if (warn) fprintf(stderr, "clocher: step %" PRId64 ": %s\n", m->step, warning);
}

ie_status train_report_step(train_report *r, const ie_train_metrics *m, ie_error *error) {
  double mfu = m->step_s > 0 && r->peak_flop_s > 0 ? m->flop / m->step_s / r->peak_flop_s : 0;
  const char *warning = trouble(r, m);
  line_show(r, m, mfu, warning);
  json_t *object = json_pack("{s:I,s:o,s:o,s:o,s:I,s:o,s:o,s:o,s:I}", "step", (json_int_t)m->step, "loss",
                             cli_json_number(m->loss), "lr", cli_json_number(m->rate), "grad_norm",
                             cli_json_number(m->grad_norm), "tokens", (json_int_t)m->tokens, "tok_s",
                             cli_json_number(m->tok_s), "mfu", cli_json_number(mfu), "elapsed_s",
                             cli_json_number(m->elapsed_s), "epoch", (json_int_t)m->epoch);
  if (object && m->balance > 0) {
    json_object_set_new(object, "balance", cli_json_number(m->balance));
    json_object_set_new(object, "idle_experts", cli_json_number(m->idle_experts));
    json_object_set_new(object, "expert_tokens_min", json_integer((json_int_t)m->expert_min));
    json_object_set_new(object, "expert_tokens_mean", cli_json_number(m->expert_mean));
    json_object_set_new(object, "expert_tokens_max", json_integer((json_int_t)m->expert_max));
  }
  if (object && warning) json_object_set_new(object, "warning", json_string(warning));
  return metrics_write(r, object, error);
}

void train_report_evaluation(train_report *r, int64_t step, const ie_train_evaluation *e) {
  train_report_line_end(r);
  cli_log(r->context, "step %" PRId64 "  valid loss %.4f  %.4f bits per byte (%" PRId64 " targets)", step,
          e->loss, e->bits_per_byte, e->targets);
  ie_error ignored = {0};
  metrics_write(r,
                json_pack("{s:I,s:o,s:o,s:I}", "step", (json_int_t)step, "valid_loss",
                          cli_json_number(e->loss), "bits_per_byte", cli_json_number(e->bits_per_byte),
                          "valid_targets", (json_int_t)e->targets),
                &ignored);
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
  const ie_state_options o = {.context_tok = (int64_t)ids.count + SAMPLE_TOK};
  if (status == IE_OK) status = ie_state_new(model, &o, &state, error);
  const ie_generate_options g = {.prompt = ids.ids,
                                 .prompt_count = (int64_t)ids.count,
                                 .max_new = SAMPLE_TOK,
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
  cli_out_printf(context, "%" PRId64 " steps of %" PRId64 " rows, %.3f TFLOP a step\n", o->steps, o->rows,
                 1e-12 * p.flop_per_step);
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
    cli_out_printf(context, "  %-28s %10.1f MB\n", lines[i].what, 1e-6 * (double)lines[i].bytes);
  return IE_OK;
}
