#include "tokenizer_ahead.h"

static void *ahead_read(void *arg) {
  cli_tokenizer_ahead *a = arg;
  a->status = a->file ? ie_tokenizer_open(a->file, &a->how, &a->tokenizer, &a->error)
                      : ie_tokenizer_open_dir(a->dir, &a->how, &a->tokenizer, &a->error);
  return NULL;
}

void cli_tokenizer_ahead_start_file(const cli_context *context, const char *dir, const char *file,
                                    const char *encoding, cli_tokenizer_ahead *a) {
  *a = (cli_tokenizer_ahead){.dir = dir,
                             .file = file,
                             .how = {.encoding = encoding, .cache_dir = cli_cache_dir(context)},
                             .started = true};
  a->threaded = pthread_create(&a->thread, NULL, ahead_read, a) == 0;
}

void cli_tokenizer_ahead_start(const cli_context *context, const char *dir, cli_tokenizer_ahead *a) {
  cli_tokenizer_ahead_start_file(context, dir, /*file=*/NULL, /*encoding=*/NULL, a);
}

static void ahead_finish(cli_tokenizer_ahead *a) {
  if (a->threaded)
    pthread_join(a->thread, NULL);
  else
    ahead_read(a);
  a->started = false;
}

ie_status cli_tokenizer_ahead_take(cli_tokenizer_ahead *a, ie_tokenizer **out, ie_error *error) {
  ahead_finish(a);
  *out = a->tokenizer;
  a->tokenizer = NULL;
  if (a->status != IE_OK && error) *error = a->error;
  return a->status;
}

void cli_tokenizer_ahead_drop(cli_tokenizer_ahead *a) {
  if (a->started && a->threaded) ahead_finish(a);
  ie_tokenizer_free(a->tokenizer);
  *a = (cli_tokenizer_ahead){0};
}
