/* `clocher train NAME`: one file train_NAME.c a part, and its line here. */
#include "cli.h"
#include "train_tokenizer.h"

static const cli_command *const parts[] = {&cmd_train_tokenizer, NULL};

const cli_command cmd_train = {
    .name = "train",
    .summary = "Train a tokenizer",
    .usage = "tokenizer [flags]",
    .parts = parts,
};
