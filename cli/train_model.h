/* The three commands that train models, and what they share with their report. */
#ifndef CLOCHER_CLI_TRAIN_MODEL_H
#define CLOCHER_CLI_TRAIN_MODEL_H

#include "cli.h"

typedef enum train_kind { TRAIN_BASE, TRAIN_SFT, TRAIN_LORA } train_kind;

typedef struct train_settings {
  const char *model_dir, *data, *data_ids, *valid, *tokenizer, *out, *betas, *lora, *adapter_in, *metrics,
      *sample_prompt, *plot, *config, *chat_format;
  int64_t steps, batch, micro, seq, warmup, step_every, stored_steps, seed, eval_every, sample_every,
      save_every, keep;
  double lr, embedding_lr, head_lr, scalar_lr, eps, weight_decay, clip, final_factor, step_gamma, balance;
  int optimiser, schedule, layout, ranks;
  bool recompute, resume, dry_run;
} train_settings;

extern const cli_command cmd_train_base, cmd_train_sft, cmd_train_lora;

#endif
