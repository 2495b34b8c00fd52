#include "text/encodings.h"

#include "text/split.h"

#include <stdio.h>

typedef struct named_id {
  const char *name;
  int32_t id; /* counted from the encoding's base */
} named_id;

struct ie_encoding {
  const char *name, *pattern;
  uint8_t normalizer; /* ie_normalizer or 0 */
  bool ignore_merges;
  bool after_ranks; /* ids count from the number of ranks, else from 0 */
  const named_id *specials;
  /* Placeholders fill the ids of [filler_first, filler_end) that `specials` leaves free; they are numbered by
   * their id, or in order from filler_number. */
  const char *filler; /* the name before the number, without <| */
  int32_t filler_first, filler_end, filler_number;
};

enum { NUMBERED_BY_ID = -1 };

static const named_id o200k_specials[] = {
    {"<|startoftext|>", 199998}, {"<|endoftext|>", 199999},
    {"<|return|>", 200002},      {"<|constrain|>", 200003},
    {"<|channel|>", 200005},     {"<|start|>", 200006},
    {"<|end|>", 200007},         {"<|message|>", 200008},
    {"<|call|>", 200012},        {"<|reserved_200018|>", 200018},
    {"<|endofprompt|>", 200018}, {NULL, 0},
};

#define QWEN_SPECIALS                                                                                        \
  {"<|endoftext|>", 151643}, {"<|im_start|>", 151644}, {"<|im_end|>", 151645},                               \
      {"<|object_ref_start|>", 151646}, {"<|object_ref_end|>", 151647}, {"<|box_start|>", 151648},           \
      {"<|box_end|>", 151649}, {"<|quad_start|>", 151650}, {"<|quad_end|>", 151651},                         \
      {"<|vision_start|>", 151652}, {"<|vision_end|>", 151653}, {"<|vision_pad|>", 151654},                  \
      {"<|image_pad|>", 151655}, {"<|video_pad|>", 151656}, {"<tool_call>", 151657},                         \
      {"</tool_call>", 151658}, {"<|fim_prefix|>", 151659}, {"<|fim_middle|>", 151660},                      \
      {"<|fim_suffix|>", 151661}, {"<|fim_pad|>", 151662}, {"<|repo_name|>", 151663}, {                      \
    "<|file_sep|>", 151664                                                                                   \
  }

static const named_id qwen25_specials[] = {QWEN_SPECIALS, {NULL, 0}};
static const named_id qwen3_specials[] = {
    QWEN_SPECIALS,       {"<tool_response>", 151665}, {"</tool_response>", 151666},
    {"<think>", 151667}, {"</think>", 151668},        {NULL, 0}};
static const named_id nanochat_specials[] = {
    {"<|bos|>", 0},           {"<|user_start|>", 1},
    {"<|user_end|>", 2},      {"<|assistant_start|>", 3},
    {"<|assistant_end|>", 4}, {"<|python_start|>", 5},
    {"<|python_end|>", 6},    {"<|output_start|>", 7},
    {"<|output_end|>", 8},    {NULL, 0},
};
static const named_id llama3_specials[] = {
    {"<|begin_of_text|>", 0},
    {"<|end_of_text|>", 1},
    {"<|reserved_special_token_0|>", 2},
    {"<|reserved_special_token_1|>", 3},
    {"<|finetune_right_pad_id|>", 4},
    {"<|reserved_special_token_2|>", 5},
    {"<|start_header_id|>", 6},
    {"<|end_header_id|>", 7},
    {"<|eom_id|>", 8},
    {"<|eot_id|>", 9},
    {"<|python_tag|>", 10},
    {NULL, 0},
};

static const ie_encoding encodings[] = {
    {.name = "o200k_harmony",
     .pattern = ie_split_o200k_pattern,
     .ignore_merges = true,
     .specials = o200k_specials,
     .filler = "reserved_",
     .filler_first = 200000,
     .filler_end = 201088,
     .filler_number = NUMBERED_BY_ID},
    {.name = "qwen2.5",
     .pattern = ie_split_qwen_pattern,
     .normalizer = IE_NORM_NFC,
     .specials = qwen25_specials},
    {.name = "qwen3",
     .pattern = ie_split_qwen_pattern,
     .normalizer = IE_NORM_NFC,
     .specials = qwen3_specials},
    {.name = "nanochat",
     .pattern = ie_split_nanochat_pattern,
     .ignore_merges = true,
     .after_ranks = true,
     .specials = nanochat_specials},
    {.name = "llama3",
     .pattern = ie_split_llama3_pattern,
     .ignore_merges = true,
     .after_ranks = true,
     .specials = llama3_specials,
     .filler = "reserved_special_token_",
     .filler_first = 11,
     .filler_end = 256,
     .filler_number = 3},
};

ie_status ie_encoding_get(const char *name, const char *where, const ie_encoding **out, ie_error *error) {
  for (size_t i = 0; name && i < sizeof encodings / sizeof encodings[0]; i++)
    if (strcmp(encodings[i].name, name) == 0) {
      *out = &encodings[i];
      return IE_OK;
    }
  *out = NULL;
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "%s: %s%s%s: expected the encoding o200k_harmony, qwen2.5, qwen3, nanochat or llama3",
                      where, name ? "unknown encoding '" : "this file holds no pattern and no special tokens",
                      name ? name : "", name ? "'" : "");
}

bool ie_encoding_ignores_merges(const ie_encoding *encoding) {
  return encoding->ignore_merges;
}

ie_status ie_encoding_stages(const ie_encoding *encoding, ie_builder *builder, bool rust, ie_error *error) {
  ie_image_stage stage = {.kind = IE_STAGE_REGEX, .behavior = IE_SPLIT_ISOLATED, .rust = rust};
  ie_status status =
      ie_builder_stage_add(builder, stage, encoding->pattern, strlen(encoding->pattern), error);
  if (status == IE_OK && encoding->normalizer)
    status = ie_builder_normalizer_add(builder, (ie_normalizer)encoding->normalizer, error);
  return status;
}

ie_status ie_encoding_specials(const ie_encoding *encoding, int64_t ranks, ie_encoding_add *add, void *user,
                               ie_error *error) {
  int64_t base = encoding->after_ranks ? ranks : 0;
  ie_status status = IE_OK;
  for (const named_id *s = encoding->specials; s->name && status == IE_OK; s++)
    status = add(user, s->name, base + s->id, error);
  int number = encoding->filler_number;
  for (int32_t id = encoding->filler_first; id < encoding->filler_end && status == IE_OK; id++) {
    const named_id *s = encoding->specials;
    while (s->name && s->id != id) s++;
    if (s->name) continue;
    char name[64];
    snprintf(name, sizeof name, "<|%s%d|>", encoding->filler, number == NUMBERED_BY_ID ? (int)id : number++);
    status = add(user, name, base + id, error);
  }
  return status;
}

const char *ie_encoding_of_ranks(size_t ranks) {
  return ranks == 199998 ? "o200k_harmony" : ranks == 128000 ? "llama3" : NULL;
}

const char *ie_encoding_of_model(const char *model_type) {
  static const char *const known[][2] = {
      {"gpt_oss", "o200k_harmony"}, {"qwen2", "qwen2.5"}, {"qwen3", "qwen3"},
      {"nanochat", "nanochat"},     {"llama", "llama3"},
  };
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp(known[i][0], model_type) == 0) return known[i][1];
  return NULL;
}
