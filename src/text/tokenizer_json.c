/* tokenizer.json of the Hugging Face `tokenizers` library, byte-level BPE. What is implemented is listed by name
 * below; any other component is refused by its name, since running without it would give other ids. */
#include "base/json.h"
#include "text/byte_level.h"
#include "text/json_walk.h"
#include "text/tokenizer.h"

#include <stdlib.h>

typedef struct json_source {
  const char *where;
  ie_builder builder;
  ie_byte_level table;
  ie_buf scratch;
  ie_json_walk vocab, merges; /* at their brackets; where = NULL: not there */
  size_t vocab_count;
  ie_buf unmapped;     /* i64: tokens whose string is in no byte table */
  int32_t last_result; /* of a merge, -1: none yet */
  bool byte_level;     /* a ByteLevel pre-tokenizer was seen: it must be the last */
  ie_error *error;
} json_source;

static ie_status json_unsupported(const json_source *s, const char *what, const char *name) {
  return ie_error_set(s->error, IE_UNSUPPORTED, "%s: %s '%s' is not supported", s->where, what, name);
}

static ie_status json_bad(const json_source *s, const char *what) {
  return ie_error_set(s->error, IE_FORMAT, "%s: %s", s->where, what);
}

static ie_json_reader json_reader(const json_source *s, const json_t *object) {
  return (ie_json_reader){.object = object, .where = s->where, .error = s->error};
}

/* The bytes that a vocabulary string stands for, in s->scratch; *mapped is false (and the bytes are the string's
 * own) when it holds a character that is no byte. */
static ie_status json_token_bytes(json_source *s, const char *text, size_t size, bool *mapped) {
  ie_buf_clear(&s->scratch);
  if (!ie_buf_reserve(&s->scratch, size + 1))
    return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->where);
  *mapped = ie_byte_level_decode(&s->table, text, size, s->scratch.data, &s->scratch.size);
  if (!*mapped) {
    memcpy(s->scratch.data, text, size);
    s->scratch.size = size;
  }
  return IE_OK;
}

static ie_status json_vocab_entry(json_source *s, ie_json_walk *w) {
  bool mapped;
  int64_t id = 0;
  ie_status status = ie_json_walk_string(w);
  if (status == IE_OK) status = json_token_bytes(s, w->string, w->string_size, &mapped);
  if (status == IE_OK) status = ie_json_walk_take(w, ':');
  if (status == IE_OK) status = ie_json_walk_int(w, &id);
  if (status == IE_OK)
    status = ie_builder_token_add(&s->builder, id, s->scratch.data, s->scratch.size, mapped, s->error);
  if (status != IE_OK) return status;
  s->vocab_count++;
  if (!mapped && !ie_buf_append(&s->unmapped, &id, sizeof id))
    return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->where);
  return IE_OK;
}

static ie_status json_vocab(json_source *s) {
  ie_json_walk *w = &s->vocab;
  ie_status status = ie_json_walk_take(w, '{');
  bool more = status == IE_OK && ie_json_walk_peek(w) != '}';
  while (status == IE_OK && more) {
    status = json_vocab_entry(s, w);
    if (status == IE_OK) status = ie_json_walk_next(w, '}', &more);
  }
  return status == IE_OK ? ie_builder_index(&s->builder, s->error) : status;
}

/* The id of a string of the vocabulary, -1 when it holds none. */
static ie_status json_vocab_find(json_source *s, const char *text, size_t size, int64_t *id) {
  bool mapped;
  *id = -1;
  ie_status status = json_token_bytes(s, text, size, &mapped);
  if (status != IE_OK) return status;
  if (mapped) *id = ie_builder_find(&s->builder, s->scratch.data, s->scratch.size);
  const int64_t *ids = (const int64_t *)(const void *)s->unmapped.data;
  for (size_t i = 0; !mapped && i < s->unmapped.size / sizeof *ids; i++) {
    const ie_builder_token *token = &s->builder.tokens[ids[i]];
    if (token->size == size && memcmp(s->builder.blob.data + token->offset, text, size) == 0) *id = ids[i];
  }
  return IE_OK;
}

/* The token that left and right make, or -1. Converted files list all the ways to make one token in a row, so the
 * last result is tried first. */
static ie_status json_merge_result(json_source *s, int32_t left, int32_t right, int32_t *result) {
  const ie_builder *b = &s->builder;
  const ie_builder_token *l = &b->tokens[left], *r = &b->tokens[right];
  const ie_builder_token *last = s->last_result >= 0 ? &b->tokens[s->last_result] : NULL;
  const char *blob = b->blob.data;
  if (last && last->size == l->size + r->size &&
      memcmp(blob + last->offset, blob + l->offset, l->size) == 0 &&
      memcmp(blob + last->offset + l->size, blob + r->offset, r->size) == 0) {
    *result = s->last_result;
    return IE_OK;
  }
  ie_buf_clear(&s->scratch);
  ie_buf_append(&s->scratch, blob + l->offset, l->size);
  if (!ie_buf_append(&s->scratch, blob + r->offset, r->size))
    return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->where);
  *result = ie_builder_find(b, s->scratch.data, s->scratch.size);
  if (*result >= 0) s->last_result = *result;
  return IE_OK;
}

/* The token of one side of a merge. A string that no text can give (a character that is no byte) leaves the merge
 * without effect: *id = -1. */
static ie_status json_merge_side(json_source *s, const char *text, size_t size, size_t rank, const char *side,
                                 int32_t *id) {
  bool mapped;
  *id = -1;
  ie_status status = json_token_bytes(s, text, size, &mapped);
  if (status != IE_OK || !mapped) return status;
  *id = ie_builder_find(&s->builder, s->scratch.data, s->scratch.size);
  if (*id >= 0) return IE_OK;
  return ie_error_set(s->error, IE_FORMAT, "%s: merge %zu: the %s string, '%.*s', is not in the vocabulary",
                      s->where, rank, side, size > 200 ? 200 : (int)size, text);
}

/* Reads one merge: two strings in a list, or one string with one space. *skip: a line that is no merge. */
static ie_status json_merge_read(json_source *s, size_t rank, int32_t *left, int32_t *right, bool *skip) {
  ie_json_walk *w = &s->merges;
  bool more;
  *skip = false;
  ie_status status;
  if (!strchr("[\"", ie_json_walk_peek(w)))
    return ie_error_set(s->error, IE_FORMAT, "%s: merge %zu: expected two strings", s->where, rank);
  if (ie_json_walk_peek(w) == '"') {
    status = ie_json_walk_string(w);
    if (status != IE_OK) return status;
    const char *text = w->string, *space = memchr(text, ' ', w->string_size);
    size_t n = space ? (size_t)(space - text) : 0, rest = space ? w->string_size - n - 1 : 0;
    *skip = w->string_size >= 8 && memcmp(text, "#version", 8) == 0;
    if (*skip) return IE_OK;
    if (!space || memchr(space + 1, ' ', rest))
      return ie_error_set(s->error, IE_FORMAT, "%s: merge %zu is not two strings with one space", s->where,
                          rank);
    status = json_merge_side(s, text, n, rank, "first", left);
    return status == IE_OK ? json_merge_side(s, space + 1, rest, rank, "second", right) : status;
  }
  status = ie_json_walk_take(w, '[');
  if (status == IE_OK) status = ie_json_walk_string(w);
  if (status == IE_OK) status = json_merge_side(s, w->string, w->string_size, rank, "first", left);
  if (status == IE_OK) status = ie_json_walk_next(w, ']', &more);
  if (status == IE_OK && !more)
    return ie_error_set(s->error, IE_FORMAT, "%s: merge %zu is not two strings", s->where, rank);
  if (status == IE_OK) status = ie_json_walk_string(w);
  if (status == IE_OK) status = json_merge_side(s, w->string, w->string_size, rank, "second", right);
  return status == IE_OK ? ie_json_walk_take(w, ']') : status;
}

static ie_status json_merge(json_source *s, size_t rank) {
  int32_t left = -1, right = -1, result = -1;
  bool skip;
  ie_status status = json_merge_read(s, rank, &left, &right, &skip);
  if (status != IE_OK || skip || left < 0 || right < 0) return status;
  status = json_merge_result(s, left, right, &result);
  if (status == IE_OK && result < 0)
    return ie_error_set(s->error, IE_FORMAT, "%s: merge %zu: what it makes is not in the vocabulary",
                        s->where, rank);
  if (status != IE_OK) return status;
  return ie_builder_pair_add(&s->builder, (uint32_t)left, (uint32_t)right, (uint32_t)rank, (uint32_t)result,
                             s->error);
}

static ie_status json_merges(json_source *s) {
  ie_json_walk *w = &s->merges;
  ie_status status = ie_json_walk_take(w, '[');
  bool more = status == IE_OK && ie_json_walk_peek(w) != ']';
  for (size_t rank = 0; status == IE_OK && more; rank++) {
    status = json_merge(s, rank);
    if (status == IE_OK) status = ie_json_walk_next(w, ']', &more);
    if (rank == UINT32_MAX - 1) return json_bad(s, "too many merges");
  }
  return status;
}

static ie_status json_model(json_source *s, const json_t *model) {
  ie_json_reader r = json_reader(s, model);
  const char *type = ie_json_string(&r, "type", "BPE");
  const json_t *vocab = ie_json_object(&r, "vocab"), *merges = ie_json_array(&r, "merges"); /* emptied */
  const char *unk = ie_json_string(&r, "unk_token", NULL);
  bool fuse = ie_json_bool(&r, "fuse_unk", false), ignore = ie_json_bool(&r, "ignore_merges", false);
  double dropout = ie_json_number(&r, "dropout", 0.0, 0.0, 1.0);
  bool fallback = ie_json_bool(&r, "byte_fallback", false);
  const char *prefix = ie_json_string(&r, "continuing_subword_prefix", "");
  const char *suffix = ie_json_string(&r, "end_of_word_suffix", "");
  if (r.status != IE_OK) return r.status;
  if (strcmp(type, "BPE") != 0) return json_unsupported(s, "model", type);
  if (fallback) return json_unsupported(s, "BPE option", "byte_fallback");
  if (dropout > 0) return json_unsupported(s, "BPE option", "dropout");
  if (*prefix) return json_unsupported(s, "BPE option", "continuing_subword_prefix");
  if (*suffix) return json_unsupported(s, "BPE option", "end_of_word_suffix");
  if (!vocab || !merges || !s->vocab.where || !s->merges.where)
    return json_bad(s, "model.vocab or model.merges is missing");
  if (ignore) s->builder.header.flags |= IE_IMAGE_IGNORE_MERGES;
  if (fuse) s->builder.header.flags |= IE_IMAGE_FUSE_UNK;
  ie_status status = json_vocab(s);
  if (status == IE_OK) status = json_merges(s);
  if (status != IE_OK || !unk) return status;
  int64_t id;
  status = json_vocab_find(s, unk, strlen(unk), &id);
  if (status == IE_OK && id < 0)
    return ie_error_set(s->error, IE_FORMAT, "%s: unk_token '%s' is not in the vocabulary", s->where, unk);
  s->builder.header.unk_id = (int32_t)id;
  return status;
}

static ie_status json_normalizer(json_source *s, const json_t *value, int depth) {
  static const char *const names[] = {"", "NFC", "NFD", "NFKC", "NFKD"};
  if (!value || json_is_null(value)) return IE_OK;
  ie_json_reader r = json_reader(s, value);
  const char *type = ie_json_string(&r, "type", "");
  const json_t *list = strcmp(type, "Sequence") == 0 ? ie_json_array(&r, "normalizers") : NULL;
  if (r.status != IE_OK) return r.status;
  for (int i = IE_NORM_NFC; i <= IE_NORM_NFKD; i++)
    if (strcmp(type, names[i]) == 0)
      return ie_builder_normalizer_add(&s->builder, (ie_normalizer)i, s->error);
  if (!list || depth > 8) return json_unsupported(s, "normalizer", type);
  ie_status status = IE_OK;
  for (size_t i = 0; i < json_array_size(list) && status == IE_OK; i++)
    status = json_normalizer(s, json_array_get(list, i), depth + 1);
  return status;
}

static ie_status json_split(json_source *s, ie_json_reader *r) {
  static const char *const behaviors[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                          "Contiguous"};
  const json_t *pattern = ie_json_object(r, "pattern");
  const char *behavior = ie_json_string(r, "behavior", "");
  bool invert = ie_json_bool(r, "invert", false);
  if (r->status != IE_OK) return r->status;
  ie_json_reader p = json_reader(s, pattern);
  const char *regex = ie_json_string(&p, "Regex", NULL), *string = ie_json_string(&p, "String", NULL);
  if (p.status != IE_OK) return p.status;
  if (!regex == !string) return json_bad(s, "Split: expected a pattern that is a Regex or a String");
  const json_t *text = json_object_get(pattern, regex ? "Regex" : "String");
  ie_image_stage stage = {
      .kind = regex ? IE_STAGE_REGEX : IE_STAGE_LITERAL, .invert = invert, .behavior = 99};
  for (uint32_t i = 0; i < sizeof behaviors / sizeof behaviors[0]; i++)
    if (strcmp(behavior, behaviors[i]) == 0) stage.behavior = i;
  if (stage.behavior == 99) return json_unsupported(s, "Split behavior", behavior);
  if (json_string_length(text) == 0) return json_unsupported(s, "Split pattern", "");
  return ie_builder_stage_add(&s->builder, stage, json_string_value(text), json_string_length(text),
                              s->error);
}

static ie_status json_byte_level(json_source *s, ie_json_reader *r) {
  bool prefix = ie_json_bool(r, "add_prefix_space", true), regex = ie_json_bool(r, "use_regex", true);
  if (r->status != IE_OK) return r->status;
  s->byte_level = true;
  ie_status status = IE_OK;
  if (prefix) {
    ie_image_stage stage = {.kind = IE_STAGE_PREFIX, .behavior = IE_SPLIT_ISOLATED};
    status = ie_builder_stage_add(&s->builder, stage, "", 0, s->error);
  }
  if (regex && status == IE_OK) {
    ie_image_stage stage = {.kind = IE_STAGE_REGEX, .behavior = IE_SPLIT_ISOLATED};
    status = ie_builder_stage_add(&s->builder, stage, ie_split_gpt2_pattern, strlen(ie_split_gpt2_pattern),
                                  s->error);
  }
  return status;
}

static ie_status json_pre_tokenizer(json_source *s, const json_t *value, int depth) {
  if (!value || json_is_null(value)) return IE_OK;
  ie_json_reader r = json_reader(s, value);
  const char *type = ie_json_string(&r, "type", "");
  if (r.status != IE_OK) return r.status;
  if (strcmp(type, "Sequence") == 0 && depth < 8) {
    const json_t *list = ie_json_array(&r, "pretokenizers");
    if (r.status != IE_OK) return r.status;
    ie_status status = IE_OK;
    for (size_t i = 0; i < json_array_size(list) && status == IE_OK; i++)
      status = json_pre_tokenizer(s, json_array_get(list, i), depth + 1);
    return status;
  }
  if (s->byte_level) return json_unsupported(s, "pre_tokenizer after ByteLevel", type);
  if (strcmp(type, "Split") == 0) return json_split(s, &r);
  if (strcmp(type, "ByteLevel") == 0) return json_byte_level(s, &r);
  if (strcmp(type, "Digits") == 0) {
    bool individual = ie_json_bool(&r, "individual_digits", false);
    if (r.status != IE_OK) return r.status;
    ie_image_stage stage = {.kind = IE_STAGE_DIGITS,
                            .behavior = individual ? IE_SPLIT_ISOLATED : IE_SPLIT_CONTIGUOUS};
    return ie_builder_stage_add(&s->builder, stage, "", 0, s->error);
  }
  return json_unsupported(s, "pre_tokenizer", type);
}

/* The ids that a special token of a template stands for. */
static ie_status json_template_ids(json_source *s, const json_t *specials, const char *name,
                                   uint32_t *count) {
  ie_json_reader r = json_reader(s, json_object_get(specials, name));
  const json_t *ids = ie_json_array(&r, "ids");
  if (r.status != IE_OK) return r.status;
  if (!ids)
    return ie_error_set(s->error, IE_FORMAT, "%s: TemplateProcessing: special token '%s' has no ids",
                        s->where, name);
  for (size_t i = 0; i < json_array_size(ids); i++) {
    const json_t *value = json_array_get(ids, i);
    int32_t id = (int32_t)json_integer_value(value);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= IE_MAX_TOKENS)
      return json_bad(s, "TemplateProcessing: an id is not a token");
    if (!ie_buf_append(&s->builder.tmpl, &id, sizeof id))
      return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->where);
    ++*count;
  }
  return IE_OK;
}

static ie_status json_template(json_source *s, ie_json_reader *r) {
  const json_t *single = ie_json_array(r, "single"), *specials = ie_json_object(r, "special_tokens");
  if (r->status != IE_OK) return r->status;
  if (s->builder.header.prefix || s->builder.header.suffix)
    return json_unsupported(s, "post_processor", "second TemplateProcessing");
  int sequences = 0;
  ie_status status = IE_OK;
  for (size_t i = 0; i < json_array_size(single) && status == IE_OK; i++) {
    ie_json_reader item = json_reader(s, json_array_get(single, i));
    const json_t *special = ie_json_object(&item, "SpecialToken"),
                 *sequence = ie_json_object(&item, "Sequence");
    ie_json_reader part = json_reader(s, special ? special : sequence);
    const char *id = ie_json_string(&part, "id", "");
    if (item.status != IE_OK || part.status != IE_OK) return IE_FORMAT;
    if (sequence && (strcmp(id, "A") != 0 || sequences++ > 0))
      return json_unsupported(s, "template sequence", id);
    if (!special && !sequence) return json_bad(s, "TemplateProcessing: expected SpecialToken or Sequence");
    if (special)
      status = json_template_ids(s, specials, id,
                                 sequences ? &s->builder.header.suffix : &s->builder.header.prefix);
  }
  if (status == IE_OK && sequences != 1)
    return json_bad(s, "TemplateProcessing: single does not hold the text once");
  return status == IE_OK ? ie_builder_post_add(&s->builder, IE_POST_TEMPLATE, s->error) : status;
}

static ie_status json_post_processor(json_source *s, const json_t *value, int depth) {
  if (!value || json_is_null(value)) return IE_OK;
  ie_json_reader r = json_reader(s, value);
  const char *type = ie_json_string(&r, "type", "");
  if (r.status != IE_OK) return r.status;
  if (strcmp(type, "Sequence") == 0 && depth < 8) {
    const json_t *list = ie_json_array(&r, "processors");
    if (r.status != IE_OK) return r.status;
    ie_status status = IE_OK;
    for (size_t i = 0; i < json_array_size(list) && status == IE_OK; i++)
      status = json_post_processor(s, json_array_get(list, i), depth + 1);
    return status;
  }
  if (strcmp(type, "TemplateProcessing") == 0) return json_template(s, &r);
  if (strcmp(type, "ByteLevel") != 0) return json_unsupported(s, "post_processor", type);
  bool trim = ie_json_bool(&r, "trim_offsets", true), prefix = ie_json_bool(&r, "add_prefix_space", true);
  if (r.status != IE_OK) return r.status;
  return trim ? ie_builder_post_add(&s->builder, prefix ? IE_POST_TRIM_PREFIX : IE_POST_TRIM, s->error)
              : IE_OK;
}

static ie_status json_decoder(json_source *s, const json_t *value, int depth) {
  if (!value || json_is_null(value)) return IE_OK;
  ie_json_reader r = json_reader(s, value);
  const char *type = ie_json_string(&r, "type", "");
  if (r.status != IE_OK) return r.status;
  if (strcmp(type, "ByteLevel") == 0) return IE_OK;
  if (strcmp(type, "Sequence") != 0 || depth > 8) return json_unsupported(s, "decoder", type);
  const json_t *list = ie_json_array(&r, "decoders");
  if (r.status != IE_OK) return r.status;
  ie_status status = IE_OK;
  for (size_t i = 0; i < json_array_size(list) && status == IE_OK; i++)
    status = json_decoder(s, json_array_get(list, i), depth + 1);
  return status;
}

/* Added tokens. The library takes the vocabulary's id for a token that it holds, else counts on from the
 * vocabulary's size, whatever the file says: a file that says otherwise would be read differently there. */
static ie_status json_added(json_source *s, const json_t *list) {
  int64_t next = (int64_t)s->vocab_count;
  for (size_t i = 0; i < json_array_size(list); i++) {
    ie_json_reader r = json_reader(s, json_array_get(list, i));
    const char *content = ie_json_string(&r, "content", NULL);
    int64_t id = ie_json_int_required(&r, "id", 0, IE_MAX_TOKENS - 1);
    uint32_t flags = 0;
    if (ie_json_bool(&r, "special", false)) flags |= IE_ADDED_SPECIAL;
    if (ie_json_bool(&r, "lstrip", false)) flags |= IE_ADDED_LSTRIP;
    if (ie_json_bool(&r, "rstrip", false)) flags |= IE_ADDED_RSTRIP;
    if (ie_json_bool(&r, "single_word", false)) flags |= IE_ADDED_SINGLE_WORD;
    if (ie_json_bool(&r, "normalized", !(flags & IE_ADDED_SPECIAL))) flags |= IE_ADDED_NORMALIZED;
    if (r.status != IE_OK) return r.status;
    size_t size = json_string_length(json_object_get(r.object, "content"));
    if (!content || size == 0) return json_bad(s, "an added token has no content");
    int64_t expected;
    ie_status status = json_vocab_find(s, content, size, &expected);
    if (status != IE_OK) return status;
    if (expected < 0) expected = next++;
    if (id != expected)
      return ie_error_set(s->error, IE_UNSUPPORTED, "%s: added token '%s' has the id %lld, expected %lld",
                          s->where, content, (long long)id, (long long)expected);
    status = ie_builder_added_add(&s->builder, id, content, size, flags, s->error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

static ie_status json_root(json_source *s, const json_t *root) {
  if (!json_is_object(root))
    return ie_error_set(s->error, IE_FORMAT, "%s: expected a JSON object, found %s", s->where,
                        ie_json_type_name(root));
  ie_json_reader r = json_reader(s, root);
  const json_t *model = ie_json_object(&r, "model"), *added = ie_json_array(&r, "added_tokens");
  if (r.status != IE_OK) return r.status;
  if (!model) return json_bad(s, "model is missing: not a tokenizer.json");
  static const char *const absent[] = {"truncation", "padding"};
  for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
    const json_t *value = json_object_get(root, absent[i]);
    if (value && !json_is_null(value)) return json_unsupported(s, "setting", absent[i]);
  }
  ie_status status = json_normalizer(s, json_object_get(root, "normalizer"), 0);
  if (status == IE_OK) status = json_pre_tokenizer(s, json_object_get(root, "pre_tokenizer"), 0);
  if (status == IE_OK && !s->byte_level) return json_unsupported(s, "pre_tokenizer", "without ByteLevel");
  if (status == IE_OK) status = json_post_processor(s, json_object_get(root, "post_processor"), 0);
  if (status == IE_OK) status = json_decoder(s, json_object_get(root, "decoder"), 0);
  if (status == IE_OK) status = json_model(s, model);
  if (status == IE_OK) status = json_added(s, added);
  return status;
}

/* Goes over the object at w. For each of the `count` keys whose value begins with open[i], at[i] becomes a walk over
 * that value; the others stay as they are. */
static ie_status json_find(json_source *s, ie_json_walk *w, const char *const *keys, const char *open,
                           size_t count, ie_json_walk *at) {
  ie_status status = ie_json_walk_take(w, '{');
  bool more = status == IE_OK && ie_json_walk_peek(w) != '}';
  while (status == IE_OK && more) {
    size_t which = 0;
    status = ie_json_walk_string(w);
    while (status == IE_OK && which < count &&
           (w->string_size != strlen(keys[which]) || memcmp(w->string, keys[which], w->string_size) != 0))
      which++;
    if (status == IE_OK) status = ie_json_walk_take(w, ':');
    if (status != IE_OK) return status;
    bool found = which < count && ie_json_walk_peek(w) == open[which];
    size_t start = w->at;
    if (found && at[which].where)
      return ie_error_set(s->error, IE_FORMAT, "%s: the key '%s' stands there twice", s->where, keys[which]);
    status = ie_json_walk_skip(w);
    if (found)
      at[which] = (ie_json_walk){.p = w->p, .size = w->at, .at = start, .where = w->where, .error = w->error};
    if (status == IE_OK) status = ie_json_walk_next(w, '}', &more);
  }
  return status;
}

/* Finds model.vocab and model.merges, and appends the document with both of them empty to *rest: that is what the
 * JSON library builds. A document in which they are not found is left whole; reading it says why. */
static ie_status json_lift(json_source *s, const char *data, size_t size, ie_buf *rest) {
  static const char *const root_keys[] = {"model"}, *const model_keys[] = {"vocab", "merges"};
  ie_json_walk w = {.p = data, .size = size, .where = s->where, .error = s->error}, parts[2] = {{0}, {0}};
  ie_json_walk model = {0};
  ie_status status = ie_json_walk_peek(&w) == '{' ? json_find(s, &w, root_keys, "{", 1, &model) : IE_OK;
  if (status == IE_OK && model.where) status = json_find(s, &model, model_keys, "{[", 2, parts);
  ie_json_walk_free(&w);
  ie_json_walk_free(&model);
  if (status != IE_OK) return status;
  size_t done = 0;
  for (int k = 0; k < 2; k++) { /* in the order of the text */
    const ie_json_walk *next = NULL;
    for (int i = 0; i < 2; i++)
      if (parts[i].where && parts[i].at >= done && (!next || parts[i].at < next->at)) next = &parts[i];
    if (!next) break;
    ie_buf_append(rest, data + done, next->at - done);
    ie_buf_append_str(rest, next == &parts[0] ? "{}" : "[]");
    done = next->size;
  }
  s->vocab = parts[0];
  s->merges = parts[1];
  if (!ie_buf_append(rest, data + done, size - done))
    return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->where);
  return IE_OK;
}

ie_status ie_tokenizer_read_json(const char *where, const void *data, size_t size, void **bytes,
                                 size_t *image_size, ie_error *error) {
  *bytes = NULL;
  json_source s = {.where = where, .error = error, .last_result = -1};
  ie_buf rest = {0};
  json_t *root = NULL;
  ie_byte_level_init(&s.table);
  ie_builder_init(&s.builder, where);
  s.builder.header.kind = IE_SOURCE_JSON;
  ie_status status = json_lift(&s, data, size, &rest);
  if (status == IE_OK)
    status = ie_json_parse(rest.data ? rest.data : "", rest.size, JSON_ALLOW_NUL, where, &root, error);
  if (status == IE_OK) status = json_root(&s, root);
  if (status == IE_OK) status = ie_builder_finish(&s.builder, bytes, image_size, error);
  json_decref(root);
  ie_buf_free(&rest);
  ie_builder_free(&s.builder);
  ie_json_walk_free(&s.vocab);
  ie_json_walk_free(&s.merges);
  ie_buf_free(&s.unmapped);
  ie_buf_free(&s.scratch);
  return status;
}
