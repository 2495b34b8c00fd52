#include "train/param_class.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static bool ends_with(const char *name, const char *const *ends) {
  size_t length = strlen(name);
  for (; *ends; ends++) {
    size_t n = strlen(*ends);
    if (length >= n && strcmp(name + length - n, *ends) == 0) return true;
  }
  return false;
}

ie_param_class ie_param_class_of(const ie_param *param) {
  static const char *const embeddings[] = {
      "embed_tokens.weight", "embed_in.weight",   "wte.weight", "wpe.weight",
      "embedding.weight",    "embeddings.weight", "pos_embed",  NULL};
  static const char *const heads[] = {"lm_head.weight", "embed_out.weight", NULL};
  static const char *const scalars[] = {"bias", NULL};
  if (param->rank < 2 || param->count == 0 || ends_with(param->name, scalars)) return IE_PARAM_SCALAR;
  if (ends_with(param->name, embeddings)) return IE_PARAM_EMBEDDING;
  return ends_with(param->name, heads) ? IE_PARAM_HEAD : IE_PARAM_MATRIX;
}

const char *ie_param_class_name(ie_param_class what) {
  static const char *const names[IE_PARAM_CLASSES] = {"matrices", "embeddings", "head", "scalars"};
  return names[what];
}
