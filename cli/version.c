#include "cli.h"

/* Both come from the Makefile. */
#ifndef CLOCHER_VERSION
#define CLOCHER_VERSION "0.0.0"
#endif
#ifndef CLOCHER_COMMIT
#define CLOCHER_COMMIT "unknown"
#endif

const char *cli_version(void) {
  return CLOCHER_VERSION;
}

const char *cli_commit(void) {
  return CLOCHER_COMMIT;
}
