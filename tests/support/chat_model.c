#include "support/chat_model.h"

#include "clocher/tensor.h"
#include "support/small_model.h"
#include "support/tempdir.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Tokens beyond the bytes: the format's, then words. */
enum {
  START = 256,
  END,
  MESSAGE,
  CHANNEL,
  CONSTRAIN,
  RETURN,
  CALL,
  SPECIALS_END,
  ASSISTANT = SPECIALS_END,
  ANALYSIS,
  FINAL,
  COMMENTARY,
  USER,
  JSON,
  THOUGHT,
  HELLO,
  W,
  AGAIN,
  ESCAPES,
  ARGUMENTS,
  VOCAB
};
static const char *const texts[VOCAB - START] = {"<|start|>",
                                                 "<|end|>",
                                                 "<|message|>",
                                                 "<|channel|>",
                                                 "<|constrain|>",
                                                 "<|return|>",
                                                 "<|call|>",
                                                 "assistant",
                                                 "analysis",
                                                 "final",
                                                 "commentary to=functions.look ",
                                                 "user",
                                                 "json",
                                                 CHAT_MODEL_THOUGHT,
                                                 "Hello",
                                                 " w",
                                                 " again",
                                                 CHAT_MODEL_ESCAPES,
                                                 "{\"q\":1}"};

/* What the attention head remembers to have seen. */
enum { SAW_THOUGHT, SAW_TILDE, SAW_CARET, SAW_AT, SAW_PERCENT, SAW_DOLLAR, FEATURES = 16 };
static const int signs[] = {[SAW_THOUGHT] = THOUGHT, [SAW_TILDE] = '~',   [SAW_CARET] = '^',
                            [SAW_AT] = '@',          [SAW_PERCENT] = '%', [SAW_DOLLAR] = '$'};

/* After `from` comes `to`; with a sign, `to` as well, which the larger boost wins. */
typedef struct rule {
  int from, to, sign; /* sign -1: always */
  float boost;
} rule;

/* A sign that was seen once in T tokens has the value sqrt(WIDTH) / T, 0.07 to 0.011: times the boost it outweighs the
 * 0.25 by which the token without a sign is ahead, and never the 64 of a table entry. */
enum { WIDTH = 320 };
static const float ahead = 64.0F, behind = 63.75F, once = 40.0F;
static const rule rules[] = {
    {'t', CHANNEL, -1, 0},
    {ASSISTANT, CHANNEL, -1, 0},
    {CHANNEL, ANALYSIS, -1, 0},
    {CHANNEL, FINAL, SAW_THOUGHT, 1},
    {CHANNEL, COMMENTARY, SAW_AT, 3},
    {CHANNEL, FINAL, SAW_PERCENT, 9},
    {ANALYSIS, MESSAGE, -1, 0},
    {FINAL, MESSAGE, -1, 0},
    {COMMENTARY, CONSTRAIN, -1, 0},
    {CONSTRAIN, JSON, -1, 0},
    {JSON, MESSAGE, -1, 0},
    {MESSAGE, THOUGHT, -1, 0},
    {MESSAGE, HELLO, SAW_THOUGHT, 1},
    {MESSAGE, ARGUMENTS, SAW_AT, 3},
    {MESSAGE, HELLO, SAW_PERCENT, 9},
    {THOUGHT, END, -1, 0},
    {END, START, -1, 0},
    {START, ASSISTANT, -1, 0},
    {START, USER, SAW_DOLLAR, 1},
    {USER, MESSAGE, -1, 0},
    {HELLO, W, -1, 0},
    {HELLO, AGAIN, SAW_TILDE, 1},
    {HELLO, ESCAPES, SAW_CARET, 1},
    {W, 0xC3, -1, 0},
    {0xC3, 0xA9, -1, 0},
    {0xA9, '!', -1, 0},
    {'!', RETURN, -1, 0},
    {AGAIN, AGAIN, -1, 0},
    {ESCAPES, RETURN, -1, 0},
    {ARGUMENTS, CALL, -1, 0},
};

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"dtype\":\"float32\","
    "\"hidden_size\":320,\"intermediate_size\":16,\"num_hidden_layers\":1,\"num_attention_heads\":1,"
    "\"num_key_value_heads\":1,\"head_dim\":16,\"hidden_act\":\"silu\",\"attention_bias\":false,"
    "\"mlp_bias\":false,\"max_position_embeddings\":1000000,\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,"
    "\"tie_word_embeddings\":false,\"vocab_size\":275,\"bos_token_id\":256,\"eos_token_id\":261}";
_Static_assert(VOCAB == 275 && RETURN == 261, "the config says so");

static float *zeros(size_t n) {
  float *x = calloc(n, sizeof *x);
  assert_non_null(x);
  return x;
}

static void weights_write(const char *path) {
  float *embed = zeros((size_t)VOCAB * WIDTH), *head = zeros((size_t)VOCAB * WIDTH),
        *v = zeros((size_t)FEATURES * WIDTH), *o = zeros((size_t)WIDTH * FEATURES),
        *none = zeros((size_t)WIDTH * FEATURES), *norm = zeros(WIDTH);
  for (size_t i = 0; i < WIDTH; i++) norm[i] = 1;
  for (size_t t = 0; t < VOCAB; t++) embed[t * WIDTH + t] = 1;
  for (size_t j = 0; j < sizeof signs / sizeof *signs; j++) {
    v[j * WIDTH + (size_t)signs[j]] = 1;
    o[(VOCAB + j) * FEATURES + j] = 1;
  }
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    const rule *r = &rules[i];
    float *row = head + (size_t)r->to * WIDTH;
    row[r->from] = r->sign < 0 ? ahead : behind;
    if (r->sign >= 0) row[VOCAB + r->sign] = once * r->boost;
  }
  const ie_tensor_out tensors[] = {
#define TENSOR(n, rows, columns, values)                                                                     \
  {.name = (n), .dtype = IE_F32, .rank = (columns) ? 2 : 1, .shape = {rows, columns}, .data = (values)}
      TENSOR("model.embed_tokens.weight", VOCAB, WIDTH, embed),
      TENSOR("model.layers.0.input_layernorm.weight", WIDTH, 0, norm),
      TENSOR("model.layers.0.self_attn.q_proj.weight", FEATURES, WIDTH, none),
      TENSOR("model.layers.0.self_attn.k_proj.weight", FEATURES, WIDTH, none),
      TENSOR("model.layers.0.self_attn.v_proj.weight", FEATURES, WIDTH, v),
      TENSOR("model.layers.0.self_attn.o_proj.weight", WIDTH, FEATURES, o),
      TENSOR("model.layers.0.post_attention_layernorm.weight", WIDTH, 0, norm),
      TENSOR("model.layers.0.mlp.gate_proj.weight", FEATURES, WIDTH, none),
      TENSOR("model.layers.0.mlp.up_proj.weight", FEATURES, WIDTH, none),
      TENSOR("model.layers.0.mlp.down_proj.weight", WIDTH, FEATURES, none),
      TENSOR("model.norm.weight", WIDTH, 0, norm),
      TENSOR("lm_head.weight", VOCAB, WIDTH, head),
#undef TENSOR
  };
  ie_error error = {0};
  if (ie_tensor_file_write(path, tensors, sizeof tensors / sizeof *tensors, &error) != IE_OK)
    fail_msg("%s", error.message);
  free(embed);
  free(head);
  free(v);
  free(o);
  free(none);
  free(norm);
}

static void tokenizer_write(const char *path) {
  json_t *added = json_array();
  for (int id = START; id < VOCAB; id++)
    json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", id, "content",
                                           texts[id - START], "single_word", 0, "lstrip", 0, "rstrip", 0,
                                           "normalized", 0, "special", id < SPECIALS_END));
  json_t *root = json_pack("{s:s, s:o, s:n, s:{s:s,s:b,s:b,s:b}, s:{s:s,s:b,s:b,s:b}, s:{s:s,s:o,s:[]}}",
                           "version", "1.0", "added_tokens", added, "normalizer", "pre_tokenizer", "type",
                           "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "decoder",
                           "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1,
                           "model", "type", "BPE", "vocab", byte_vocab_make(), "merges");
  assert_non_null(root);
  assert_int_equal(json_dump_file(root, path, 0), 0);
  json_decref(root);
}

char *chat_model_make(void) {
  char *dir = tempdir_make();
  tempdir_write_text(dir, "config.json", config);
  weights_write(tempdir_path(dir, "model.safetensors"));
  tokenizer_write(tempdir_path(dir, "tokenizer.json"));
  return dir;
}
