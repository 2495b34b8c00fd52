/* What a training run says: a line a step on stderr, one JSON object a step in the metrics file, evaluations, samples,
 * the plan of a dry run, the plot at the end. */
#ifndef CLOCHER_CLI_TRAIN_REPORT_H
#define CLOCHER_CLI_TRAIN_REPORT_H

#include "clocher/train.h"
#include "engine.h"
#include "progress.h"
#include "train_model.h"

#include <stdio.h>

typedef struct train_report {
  cli_context *context;
  const train_settings *s;
  FILE *metrics;
  char *metrics_path, *plot_path;
  double peak_flop_s; /* the machine's, probed at the beginning */
  double start_s, shown_s;
  int64_t first;                    /* step that this process began after */
  double loss_mean, loss_deviation; /* over the last steps */
  char warning[96];                 /* of the last step; "": none */
  char warned[96];                  /* the last one that was shown, and its step */
  int64_t warned_step;
  bool trouble_began;       /* the last step had a warning, the one before had none */
  bool terminal, line_open; /* the cursor stands behind a line that the next one replaces */
} train_report;

ie_status train_report_open(train_report *report, cli_context *context, const train_settings *s,
                            const cli_engine *engine, int64_t first, ie_error *error);
void train_report_close(train_report *report);
/* Leaves the line of the progress as it is. Called before something else is printed. */
void train_report_line_end(train_report *report);
/* A step was made. IE_IO when the metrics cannot be written. */
ie_status train_report_step(train_report *report, const ie_train_metrics *m, ie_error *error);
/* IE_IO when the metrics cannot be written. */
ie_status train_report_evaluation(train_report *report, int64_t step, const ie_train_evaluation *e,
                                  ie_error *error);
/* 100 tokens at temperature 0.8 from a prompt, or as many as the model's context leaves, to stderr. */
ie_status train_report_sample(train_report *report, ie_model *model, const ie_tokenizer *tokenizer,
                              const char *prompt, int64_t step, ie_error *error);
/* Draws the plot. */
void train_report_end(train_report *report);

/* Draws the metrics' losses as a PNG with gnuplot. False when it could not; asked: then it says why. */
bool train_plot_draw(const cli_context *context, const char *metrics, const char *path, bool asked);

/* The plan of a run, on stdout. */
ie_status train_report_plan(cli_context *context, ie_model *model, const ie_train_options *options,
                            ie_error *error);

#endif
