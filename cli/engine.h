/* What the engine commands share: a device and a model from the common options, and what they report. */
#ifndef CLOCHER_CLI_ENGINE_H
#define CLOCHER_CLI_ENGINE_H

#include "cli.h"
#include "clocher/adapter.h"
#include "clocher/generate.h"
#include "clocher/model.h"
#include "rows.h"

#include <jansson.h>

typedef struct cli_engine {
  ie_device *device;
  ie_model *model;
  const ie_model_info *info; /* of the model */
  double load_s;
  ie_adapter *adapter; /* on the model; NULL: none */
  /* Set while the model is open for planning alone, until cli_memory_place opens it for real. All borrowed. */
  const char *planned_dir;
  ie_device *planned_on;
  ie_model_options planned; /* those of the real opening */
} cli_engine;

/* Opens a device as the common options and CLOCHER_ISA say. IE_INVALID_ARGUMENT for an instruction set that is
 * forced but not there. */
ie_status cli_device_open(const cli_context *context, ie_device **out, ie_error *error);

/* For what only the CPU can do (training, --memory): there `--device auto` is the CPU. cli_engine_open_as does it for
 * the common options and for ie_model_options.train. */
void cli_device_on_cpu(cli_context *context);

/* "cuda" or "cuda:N", built or not. */
bool cli_device_is_cuda(const char *name);

/* Opens device and model. plan_only: for planning alone. Else for planning at first, so that what a limit or a context does
 * not hold is refused before anything is read or quantised: cli_memory_place opens it for real, and gives it new `model`
 * and `info`. dir is borrowed until then. Close it in any case. */
ie_status cli_engine_open(const cli_context *context, const char *dir, bool plan_only, cli_engine *out,
                          ie_error *error);
/* The same with more options of the model, whose strings are borrowed as dir is. */
ie_status cli_engine_open_planned(const cli_context *context, const char *dir, ie_model_options options,
                                  cli_engine *out, ie_error *error);
/* At once, as the options say; those that are common flags are set here. */
ie_status cli_engine_open_as(const cli_context *context, const char *dir, ie_model_options options,
                             cli_engine *out, ie_error *error);
/* A second model on the first one's device, which is closed after it; out->device stays NULL. */
ie_status cli_engine_open_beside(const cli_context *context, const char *dir, const cli_engine *first,
                                 cli_engine *out, ie_error *error);
/* Reads an adapter and puts it on the model; dir NULL: nothing. train: its factors are what is trained. */
ie_status cli_engine_adapt(cli_engine *engine, const char *dir, bool train, ie_error *error);
void cli_engine_close(cli_engine *engine);

/* The --kv choices. */
extern const char *const cli_kv_names[];
enum { CLI_KV_AUTO, CLI_KV_F32, CLI_KV_F16, CLI_KV_BF16 };
ie_dtype cli_kv_dtype(int choice);

/* The --pretranspose choices of older documents, and the note that all but "none" are ignored. */
extern const char *const cli_pretranspose_names[];
void cli_pretranspose_log(const cli_context *context, int choice);

/* The rows of --ids or --ids-file (the other is NULL). */
ie_status cli_rows_get(const char *ids, const char *ids_file, int64_t vocab, cli_rows *out, ie_error *error);

/* Refuses (IE_INVALID_ARGUMENT, with the numbers) rows that do not fit `context_tok` with max_new more. */
ie_status cli_rows_fit(const cli_rows *rows, int64_t max_new, int64_t context_tok, ie_error *error);
/* The same of a length alone. */
ie_status cli_tokens_fit(int64_t longest, int64_t max_new, int64_t context_tok, ie_error *error);

/* What ie_model_plan is to say of a state, under --memory when that is given. */
ie_plan_options cli_plan_options(const cli_context *context, const ie_state_options *state);

/* Refuses (IE_LIMIT, with the least that would do) what does not fit the --memory that was given. */
ie_status cli_memory_check(const cli_context *context, const cli_engine *engine,
                           const ie_state_options *state, ie_error *error);

/* The same, opens a model for real that was opened for planning, and brings the weights where a limit wants them. Call it
 * once, before the state. */
ie_status cli_memory_place(const cli_context *context, cli_engine *engine, const ie_state_options *state,
                           ie_error *error);

/* What was read from disk, for "memory" of --json; all zero when nothing is. NULL when memory is out. */
json_t *cli_stream_json(const cli_engine *engine);
/* The same in a line on stderr; nothing when nothing was read. */
void cli_stream_print(const cli_context *context, const cli_engine *engine);
/* Share of the experts that were in memory when they were needed; GB/s while reads were under way. */
double cli_hit_rate(const ie_stream_stats *stats);
double cli_disk_gb_s(const ie_stream_stats *stats);
/* Sets state->sequences for `rows` rows, `batch` of them together, and calls cli_memory_place. Where --batch was not given
 * (its default is CLI_BATCH), fewer when the --memory limit, or the machine, does not hold so many, and one where
 * that limit leaves experts on disk. */
#define CLI_BATCH "8"
ie_status cli_batch_choose(const cli_context *context, cli_engine *engine, int64_t batch, size_t rows,
                           ie_state_options *state, ie_error *error);

/* {"weights", "activations", "accumulate", "kv"}. */
json_t *cli_arithmetic_json(const ie_model_info *info, ie_dtype kv);

/* Seconds of the monotonic clock. */
double cli_clock_s(void);

/* The value below which `share` of the values lie (nearest rank), of a copy; 0 for none. NaN when memory is out. */
double cli_quantile(const double *values, size_t count, double share);

#endif
