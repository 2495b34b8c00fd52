/* `clocher train NAME`: one file train_NAME.c a part, and its line here. */
#include "cli.h"
#include "train_model.h"
#include "train_tokenizer.h"

static const cli_command *const parts[] = {&cmd_train_base, &cmd_train_sft, &cmd_train_lora,
                                           &cmd_train_tokenizer, NULL};

const cli_command cmd_train = {
    .name = "train",
    .summary = "Train a model, an adapter or a tokenizer",
    .usage = "base|sft|lora|tokenizer [flags]",
    .parts = parts,
};
