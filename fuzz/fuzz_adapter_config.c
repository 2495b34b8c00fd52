/* adapter_config.json of PEFT: parsed, asked about modules, and written back, which must say the same. The expressions
 * in it are PCRE2's to run, within limits.
 * Covers: src/models/adapter_config.c
 * Length: 4096 */
#include "models/adapter_config.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const ie_adapter_config *config, const char *module) {
  ie_error error = {0};
  bool matches;
  ie_adapter_rank rank;
  if (ie_adapter_config_matches(config, module, &matches, &error) != IE_OK && !error.message[0]) abort();
  error = (ie_error){0};
  if (ie_adapter_config_rank(config, module, &rank, &error) == IE_OK) {
    if (rank.r < 1 || rank.r > IE_ADAPTER_MAX_RANK || !isfinite(rank.scale) || !(rank.alpha > 0)) abort();
  } else if (!error.message[0]) {
    abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const modules[] = {"gpt_neox.layers.0.attention.query_key_value",
                                        "model.layers.11.self_attn.q_proj", "lm_head", ""};
  ie_adapter_config config, again;
  ie_error error = {0};
  if (ie_adapter_config_parse(data, size, "input", &config, &error) != IE_OK) {
    if (config.root || !error.message[0]) abort();
    return 0;
  }
  for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) ask(&config, modules[i]);
  char *text = json_dumps(config.root, JSON_COMPACT);
  if (!text || ie_adapter_config_parse(text, strlen(text), "again", &again, &error) != IE_OK) abort();
  if (again.r != config.r || again.rslora != config.rslora) abort();
  free(text);
  ie_adapter_config_free(&again);
  ie_adapter_config_free(&config);
  return 0;
}
