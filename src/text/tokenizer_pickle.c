/* nanochat's tokenizer.pkl: the pickle of a tiktoken.core.Encoding. No other class is known, and nothing is ever
 * called (base/pickle.h). */
#include "base/pickle.h"
#include "text/tokenizer.h"

/* {token: id} of mergeable_ranks (bytes) or special_tokens (text). */
static ie_status pickle_tokens(const ie_pickle *pickle, ie_pickle_value dict, bool special, ie_builder *b,
                               ie_error *error) {
  for (size_t i = 0; i + 1 < ie_pickle_count(pickle, dict); i += 2) {
    const ie_pickle_value key = ie_pickle_item(pickle, dict, i), id = ie_pickle_item(pickle, dict, i + 1);
    if (key.type != (special ? IE_PICKLE_TEXT : IE_PICKLE_BYTES) || id.type != IE_PICKLE_INT || key.size == 0)
      return ie_error_set(error, IE_FORMAT, "%s: entry %zu of %s is not a token and its id", b->where, i / 2,
                          special ? "special_tokens" : "mergeable_ranks");
    ie_status status;
    if (!special)
      status = ie_builder_token_add(b, id.number, key.data, key.size, /*lookup=*/true, error);
    else if (id.number >= 0 && (size_t)id.number < b->ids && b->tokens[id.number].flags)
      status = ie_error_set(error, IE_FORMAT, "%s: special token %.*s has the id %lld of another token",
                            b->where, key.size > 100 ? 100 : (int)key.size, key.data, (long long)id.number);
    else
      status = ie_builder_added_add(b, id.number, key.data, key.size, IE_ADDED_SPECIAL, error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

static ie_status pickle_build_tokenizer(const ie_pickle *pickle, ie_builder *b, ie_error *error) {
  const ie_pickle_value object = ie_pickle_root(pickle);
  const ie_pickle_value state = ie_pickle_state(pickle, object);
  if (object.type != IE_PICKLE_OBJECT || state.type != IE_PICKLE_DICT)
    return ie_error_set(error, IE_FORMAT, "%s: the pickle does not hold one tiktoken.core.Encoding",
                        b->where);
  const ie_pickle_value pattern = ie_pickle_get(pickle, state, "pat_str");
  const ie_pickle_value ranks = ie_pickle_get(pickle, state, "mergeable_ranks");
  const ie_pickle_value special = ie_pickle_get(pickle, state, "special_tokens");
  if (pattern.type != IE_PICKLE_TEXT || ranks.type != IE_PICKLE_DICT || special.type != IE_PICKLE_DICT)
    return ie_error_set(error, IE_FORMAT, "%s: pat_str, mergeable_ranks or special_tokens is missing",
                        b->where);
  ie_status status = pickle_tokens(pickle, ranks, false, b, error);
  if (status == IE_OK) status = ie_tokenizer_finish_ranks(b, error);
  ie_image_stage stage = {.kind = IE_STAGE_REGEX, .behavior = IE_SPLIT_ISOLATED, .rust = true};
  if (status == IE_OK) status = ie_builder_stage_add(b, stage, pattern.data, pattern.size, error);
  return status == IE_OK ? pickle_tokens(pickle, special, true, b, error) : status;
}

ie_status ie_tokenizer_read_pickle(const char *where, const void *data, size_t size, void **bytes,
                                   size_t *image_size, ie_error *error) {
  static const char *const globals[] = {"tiktoken.core.Encoding", NULL};
  static const ie_pickle_rules rules = {.globals = globals, .what = "a tokenizer"};
  *bytes = NULL;
  ie_pickle *pickle;
  ie_status status = ie_pickle_read(data, size, where, &rules, &pickle, error);
  if (status != IE_OK) return status;
  ie_builder builder;
  ie_builder_init(&builder, where);
  builder.header.kind = IE_SOURCE_PICKLE;
  status = pickle_build_tokenizer(pickle, &builder, error);
  if (status == IE_OK) status = ie_builder_finish(&builder, bytes, image_size, error);
  ie_builder_free(&builder);
  ie_pickle_free(pickle);
  return status;
}
