#include "cli.h"
#include "out.h"

typedef struct settings {
  bool json;
} settings;

static const cli_option options[] = {
    {"--json", CLI_AS_FLAG(settings, json), .meaning = "One JSON object."},
    {0},
};

static int version_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  if (s->json) {
    json_t *value = json_pack("{s:s, s:s, s:[], s:s, s:{s:b, s:b, s:b, s:b, s:b}}", "version", cli_version(),
                              "commit", cli_commit(), "isa", "isa_used", "scalar", "features", "cuda", 0,
                              "mpi", 0, "nccl", 0, "uring", 0, "curl", 0);
    return cli_out_json(context, value);
  }
  cli_out_printf(context, "clocher %s (%s)\n", cli_version(), cli_commit());
  return CLI_OK;
}

const cli_command cmd_version = {
    .name = "version",
    .summary = "Print the version and what this program and machine can do",
    .usage = "[--json]",
    .options = options,
    .settings_bytes = sizeof(settings),
    .run = version_run,
};
