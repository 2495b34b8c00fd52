/* The folder of a training run: whether it may be written to, and its metrics when a run goes on. */
#ifndef CLOCHER_CLI_TRAIN_FOLDER_H
#define CLOCHER_CLI_TRAIN_FOLDER_H

#include "cli.h"

#include <stdio.h>

/* Refuses what is no folder, the model's own, and without `resume` one that holds a run: snapshots, a trained model or
 * lines of metrics. -1 to go on (it may be missing), or an exit code after a message. */
int train_folder_check(const cli_context *context, const char *out, const char *model_dir, bool resume);

/* Makes the folder where it is missing; its parent must be there. */
ie_status train_folder_make(const char *out, ie_error *error);

/* Opens the metrics of a run that stands after `step` for appending. Lines of later steps and a line that was cut short
 * are taken out first, so that no step stands there twice; step 0: all lines. What is no ordinary file is left alone. */
ie_status train_metrics_open(const char *path, int64_t step, FILE **out, ie_error *error);

#endif
