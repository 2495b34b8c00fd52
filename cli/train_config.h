/* The flags of a training run as a JSON object: read with --config, and written into the run's folder, so that
 * `clocher train ... --config DIR/train_config.json` is the same run again.
 *
 * A key is a flag without its dashes ("save-every", or "save_every"); "command" may say which command the file is for.
 * What stands on the command line wins. */
#ifndef CLOCHER_CLI_TRAIN_CONFIG_H
#define CLOCHER_CLI_TRAIN_CONFIG_H

#include "cli.h"

#include <jansson.h>

enum { TRAIN_CONFIG_FLAGS = 64 };

typedef struct train_config {
  json_t *object;                 /* settings borrow its strings */
  bool given[TRAIN_CONFIG_FLAGS]; /* one per option of the command's table: it stands in the file */
} train_config;

/* Fills what the command line left open in *settings and context->common. -1 to go on, or an exit code after a message:
 * 2 for what is no such object, an unknown key or a wrong value; 1 when the file cannot be read. */
int train_config_read(train_config *config, cli_context *context, const char *path, void *settings);
void train_config_free(train_config *config);

/* True when the flag stood on the command line or in the file. */
bool train_config_given(const train_config *config, const cli_context *context, const char *flag);

/* Says which flags are others than those that the folder's run was written down with. */
void train_config_changes(const cli_context *context, const void *settings, const char *dir);

/* Writes all flags as they are in use to DIR/train_config.json, whole or not at all. Left out are those that say how
 * this process begins (--resume, --dry-run, --config) and --quiet. */
ie_status train_config_write(const cli_context *context, const void *settings, const char *dir,
                             ie_error *error);

#endif
