/* `clocher eval ppl`, a part of `clocher eval`. */
#ifndef CLOCHER_CLI_EVAL_PPL_H
#define CLOCHER_CLI_EVAL_PPL_H

#include "cli.h"

extern const cli_command cmd_eval_ppl;

#endif
