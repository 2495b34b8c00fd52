/* `clocher eval NAME`: one file eval_NAME.c a part, and its line here. */
#include "cli.h"
#include "eval_ppl.h"

static const cli_command *const parts[] = {&cmd_eval_ppl, NULL};

const cli_command cmd_eval = {
    .name = "eval",
    .summary = "How well a model predicts a text, and how far two models are apart",
    .usage = "ppl [flags]",
    .parts = parts,
};
