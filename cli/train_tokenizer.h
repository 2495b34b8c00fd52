/* `clocher train tokenizer`, a part of `clocher train`. */
#ifndef CLOCHER_CLI_TRAIN_TOKENIZER_H
#define CLOCHER_CLI_TRAIN_TOKENIZER_H

#include "cli.h"

extern const cli_command cmd_train_tokenizer;

#endif
