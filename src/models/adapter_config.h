/* adapter_config.json of PEFT (LoraConfig). The parsed object is kept, so that a config that was read is written back
 * with all its keys. Which files are accepted: clocher/adapter.h. Owner: ie_adapter_config_free. */
#ifndef CLOCHER_MODELS_ADAPTER_CONFIG_H
#define CLOCHER_MODELS_ADAPTER_CONFIG_H

#include "clocher/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IE_ADAPTER_MAX_RANK = 1 << 20 };

typedef struct ie_adapter_config {
  json_t *root;
  int64_t r;
  double alpha;
  double dropout; /* of the adapter's input, while it is trained */
  bool rslora;
  const json_t *targets; /* array of strings, or a string: a regular expression or "all-linear"; borrowed */
  const json_t *rank_pattern;  /* object: expression -> r; NULL: none */
  const json_t *alpha_pattern; /* object: expression -> alpha; NULL: none */
} ie_adapter_config;

/* `where` names the file in messages. On failure *out is all zero. */
ie_status ie_adapter_config_parse(const void *bytes, size_t size, const char *where, ie_adapter_config *out,
                                  ie_error *error);
/* The same from an object; takes its reference in any case. NULL: out of memory. */
ie_status ie_adapter_config_take(json_t *root, const char *where, ie_adapter_config *out, ie_error *error);
void ie_adapter_config_free(ie_adapter_config *config);

/* Whether target_modules names a module: an entry is the module's name or its end behind a dot, an expression matches
 * all of it, "all-linear" is any. */
ie_status ie_adapter_config_matches(const ie_adapter_config *config, const char *module, bool *matches,
                                    ie_error *error);
/* What rank_pattern and alpha_pattern, else r and lora_alpha, give a module: the first key that is a regular expression
 * of the module's name or of its end behind a dot. scale is alpha / r, or alpha / sqrt(r). */
typedef struct ie_adapter_rank {
  int64_t r;
  double alpha, scale;
} ie_adapter_rank;
ie_status ie_adapter_config_rank(const ie_adapter_config *config, const char *module, ie_adapter_rank *out,
                                 ie_error *error);

#endif
