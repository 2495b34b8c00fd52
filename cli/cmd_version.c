#include "engine.h"

#include "clocher/ranks.h"
#include "out.h"

#include <string.h>

typedef struct settings {
  bool json;
} settings;

static const cli_option options[] = {
    {"--json", CLI_AS_FLAG(settings, json), .meaning = "One JSON object."},
    {0},
};

#ifdef CLOCHER_WITH_EDIT
enum { WITH_EDIT = 1 };
#else
enum { WITH_EDIT = 0 };
#endif
#ifdef CLOCHER_WITH_URING
enum { WITH_URING = 1 };
#else
enum { WITH_URING = 0 };
#endif

/* Those that are 0 below have no code yet, whatever libraries the build found. */
static int version_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  ie_device *device;
  ie_error error = {0};
  context->common.threads = 1; /* nothing is computed */
  ie_status status = cli_device_open(context, &device, &error);
  if (status != IE_OK) return cli_fail(context, status, &error);
  int code = CLI_OK;
  if (s->json) {
    json_t *names = json_array();
    for (const char *const *isa = ie_device_isa_list(); names && *isa; isa++)
      json_array_append_new(names, json_string(*isa));
    code = cli_out_json(context, json_pack("{s:s, s:s, s:o, s:s, s:{s:b, s:b, s:b, s:b, s:b, s:b}}",
                                           "version", cli_version(), "commit", cli_commit(), "isa", names,
                                           "isa_used", ie_device_isa(device), "features", "cuda",
                                           ie_device_cuda_built(), "mpi", ie_ranks_mpi_built(), "nccl", 0,
                                           "uring", WITH_URING, "curl", 0, "edit", WITH_EDIT));
  } else {
    cli_out_printf(context, "clocher %s (%s)\nkernel sets:", cli_version(), cli_commit());
    for (const char *const *isa = ie_device_isa_list(); *isa; isa++)
      cli_out_printf(context, " %s%s", *isa, strcmp(*isa, ie_device_isa(device)) ? "" : " (in use)");
    cli_out_printf(context, "\n");
  }
  ie_device_free(device);
  return code;
}

const cli_command cmd_version = {
    .name = "version",
    .summary = "Print the version and what this program and machine can do",
    .usage = "[--json]",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = 1 << CLI_COMMON_DEVICE,
    .run = version_run,
};
