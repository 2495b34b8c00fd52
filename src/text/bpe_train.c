#include "text/bpe_train.h"

#include "base/quote.h"
#include "base/size.h"
#include "text/byte_level.h"
#include "text/image.h"

#include <stdlib.h>
#include <string.h>

/* Inside, ids are counted as the reference counts them: special tokens, bytes, merges. */

/* Which words a pair stands in. A word may be listed where the pair has gone since. */
typedef struct places {
  uint32_t *words; /* (count) */
  uint32_t count, capacity;
} places;

typedef struct pair_slot {
  uint64_t key;       /* left << 32 | right; PAIR_EMPTY: none */
  int64_t count;      /* as the reference keeps it: the pair that is merged itself is not counted down */
  places fresh;       /* words in which it came up since it was last put into the queue */
  uint32_t last_rank; /* of its latest merge */
} pair_slot;

typedef struct candidate {
  uint64_t count, key;
  places words;
} candidate;

typedef struct trainer {
  const ie_merge_options *options;
  bool failed; /* memory was out */
  /* words: symbols of word i are [start[i], start[i] + length[i]) */
  uint32_t *symbols, *length;
  size_t *start;
  int64_t *count;
  size_t words;
  /* pairs */
  pair_slot *pairs;
  size_t pair_capacity, pair_count;
  uint64_t *touched_keys; /* (touched_count) pairs that have fresh words */
  size_t touched_count, touched_capacity;
  candidate *heap;
  size_t heap_count, heap_capacity;
  /* tokens: bytes of id i are [offset[i], offset[i + 1]) of blob */
  ie_buf blob;
  size_t *offset;
  uint32_t tokens;
  uint32_t *by_name; /* (name_capacity) id + 1, or 0 */
  size_t name_capacity;
  ie_merge *merges; /* (merge_count) */
  size_t merge_count, merge_capacity;
} trainer;

#define PAIR_EMPTY UINT64_MAX

/* Grows an array of `size` byte elements so that it holds one more than `count`. */
static bool array_grow(void *array, size_t size, size_t count, size_t *capacity) {
  if (count < *capacity) return true;
  size_t more = *capacity ? 2 * *capacity : 64, bytes;
  void *old, *grown;
  memcpy(&old, array, sizeof old);
  grown = ie_size_mul(more, size, &bytes) ? realloc(old, bytes) : NULL;
  if (!grown) return false;
  memcpy(array, &grown, sizeof grown);
  *capacity = more;
  return true;
}

/* ---- pairs ---- */

static uint64_t pair_key(uint32_t left, uint32_t right) {
  return (uint64_t)left << 32 | right;
}

static pair_slot *pair_slot_of(const trainer *t, uint64_t key) {
  size_t i = (size_t)ie_text_mix(key ^ 0x9E3779B97F4A7C15u, 0xD6E8FEB86659FD93u);
  for (i &= t->pair_capacity - 1;; i = (i + 1) & (t->pair_capacity - 1))
    if (t->pairs[i].key == key || t->pairs[i].key == PAIR_EMPTY) return &t->pairs[i];
}

static bool pairs_grow(trainer *t) {
  size_t old_capacity = t->pair_capacity, bytes;
  pair_slot *old = t->pairs;
  t->pair_capacity = old_capacity ? 2 * old_capacity : 1 << 14;
  t->pairs = ie_size_mul(t->pair_capacity, sizeof *old, &bytes) ? malloc(bytes) : NULL;
  if (!t->pairs) {
    t->pairs = old;
    t->pair_capacity = old_capacity;
    return false;
  }
  for (size_t i = 0; i < t->pair_capacity; i++) t->pairs[i] = (pair_slot){.key = PAIR_EMPTY};
  for (size_t i = 0; i < old_capacity; i++)
    if (old[i].key != PAIR_EMPTY) *pair_slot_of(t, old[i].key) = old[i];
  free(old);
  return true;
}

/* The slot of a pair, made where there is none; NULL when memory is out. */
static pair_slot *pair_get(trainer *t, uint64_t key) {
  if (2 * t->pair_count >= t->pair_capacity && !pairs_grow(t)) return NULL;
  pair_slot *slot = pair_slot_of(t, key);
  if (slot->key == PAIR_EMPTY) {
    *slot = (pair_slot){.key = key};
    t->pair_count++;
  }
  return slot;
}

/* The pair occurs `change` times more in a word. Words come in any order, but each is done with before the next. */
static void pair_change(trainer *t, uint32_t left, uint32_t right, int64_t change, uint32_t word) {
  if (t->failed) return;
  pair_slot *slot = pair_get(t, pair_key(left, right));
  t->failed = !slot;
  if (t->failed) return;
  slot->count += change;
  places *fresh = &slot->fresh;
  if (change < 0 || (fresh->count && fresh->words[fresh->count - 1] == word)) return;
  if (fresh->count == 0) {
    t->failed =
        !array_grow(&t->touched_keys, sizeof *t->touched_keys, t->touched_count, &t->touched_capacity);
    if (t->failed) return;
    t->touched_keys[t->touched_count++] = slot->key;
  }
  size_t capacity = fresh->capacity;
  if (!fresh->capacity) {
    fresh->words = malloc(4 * sizeof *fresh->words);
    capacity = fresh->words ? 4 : 0;
  }
  t->failed = capacity == 0 || !array_grow(&fresh->words, sizeof *fresh->words, fresh->count, &capacity);
  if (t->failed) return;
  fresh->capacity = (uint32_t)capacity;
  fresh->words[fresh->count++] = word;
}

/* ---- the queue ---- */

/* More frequent first; of equals the smaller pair. */
static bool comes_before(const candidate *a, const candidate *b) {
  return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void heap_sink(trainer *t, size_t i) {
  candidate moved = t->heap[i];
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= t->heap_count) break;
    if (child + 1 < t->heap_count && comes_before(&t->heap[child + 1], &t->heap[child])) child++;
    if (!comes_before(&t->heap[child], &moved)) break;
    t->heap[i] = t->heap[child];
    i = child;
  }
  t->heap[i] = moved;
}

static bool heap_push(trainer *t, candidate c) {
  if (!array_grow(&t->heap, sizeof *t->heap, t->heap_count, &t->heap_capacity)) return false;
  size_t i = t->heap_count++;
  for (; i > 0 && comes_before(&c, &t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
  t->heap[i] = c;
  return true;
}

static candidate heap_pop(trainer *t) {
  candidate top = t->heap[0];
  t->heap[0] = t->heap[--t->heap_count];
  if (t->heap_count) heap_sink(t, 0);
  return top;
}

/* Puts the pairs that came up into the queue, each with the words in which it did. */
static void touched_queue(trainer *t) {
  for (size_t i = 0; i < t->touched_count && !t->failed; i++) {
    pair_slot *slot = pair_slot_of(t, t->touched_keys[i]);
    places words = slot->fresh;
    slot->fresh = (places){0};
    t->failed = slot->count > 0 &&
                !heap_push(t, (candidate){.count = (uint64_t)slot->count, .key = slot->key, .words = words});
    if (slot->count <= 0 || t->failed) free(words.words);
  }
  t->touched_count = 0;
}

/* ---- tokens ---- */

static const char *token_bytes(const trainer *t, uint32_t id, size_t *size) {
  *size = t->offset[id + 1] - t->offset[id];
  return t->blob.data + t->offset[id];
}

/* The place of a name in by_name: its id + 1, or 0 where it belongs. */
static uint32_t *name_slot(const trainer *t, const char *name, size_t size) {
  size_t i = (size_t)ie_text_hash(name, size) & (t->name_capacity - 1);
  for (;; i = (i + 1) & (t->name_capacity - 1)) {
    if (t->by_name[i] == 0) return &t->by_name[i];
    size_t n;
    const char *bytes = token_bytes(t, t->by_name[i] - 1, &n);
    if (n == size && memcmp(bytes, name, n) == 0) return &t->by_name[i];
  }
}

/* A new token. named: text may become it. */
static bool token_add(trainer *t, const char *bytes, size_t size, bool named) {
  if (!ie_buf_append(&t->blob, bytes, size)) return false;
  t->offset[++t->tokens] = t->blob.size;
  if (named) *name_slot(t, bytes, size) = t->tokens;
  return true;
}

static ie_status specials_add(trainer *t, ie_error *error) {
  ie_byte_level table;
  ie_byte_level_init(&table);
  for (size_t i = 0; i < t->options->special_count; i++) {
    const char *name = t->options->specials[i];
    size_t n = strlen(name), size = 0;
    char *bytes = malloc(n + 1);
    if (!bytes) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the special tokens");
    /* text becomes a special token where the byte table writes it so */
    bool named = ie_byte_level_decode(&table, name, n, bytes, &size);
    bool ok = n > 0 && (!named || size > 1) && (!named || *name_slot(t, bytes, size) == 0);
    for (size_t k = 0; k < i; k++) ok = ok && strcmp(name, t->options->specials[k]) != 0;
    bool added = ok && token_add(t, named ? bytes : name, named ? size : n, named);
    free(bytes);
    if (!ok)
      return ie_error_set(error, IE_INVALID_ARGUMENT,
                          "special token \"%s\": expected more than one character, and each token once",
                          ie_quote(name).text);
    if (!added) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the special tokens");
  }
  return IE_OK;
}

/* Bytes in the order of their characters in GPT-2's table. */
static bool bytes_add(trainer *t, uint32_t id_of[256]) {
  ie_byte_level table;
  ie_byte_level_init(&table);
  for (int c = 0; c < IE_BYTE_LEVEL_CHARS; c++) {
    if (table.byte[c] < 0) continue;
    char byte = (char)table.byte[c];
    id_of[table.byte[c]] = t->tokens;
    if (!token_add(t, &byte, 1, /*named=*/true)) return false;
  }
  return true;
}

/* ---- words ---- */

static bool words_add(trainer *t, const ie_word_table *table, const uint32_t id_of[256]) {
  size_t symbols = 0, at = 0;
  for (size_t i = 0; i < table->capacity; i++)
    if (table->slots[i].text) symbols += table->slots[i].size;
  if (table->words >= UINT32_MAX) return false;
  size_t words = table->words ? table->words : 1;
  t->symbols = malloc((symbols ? symbols : 1) * sizeof *t->symbols);
  t->start = malloc(words * sizeof *t->start);
  t->length = malloc(words * sizeof *t->length);
  t->count = malloc(words * sizeof *t->count);
  if (!t->symbols || !t->start || !t->length || !t->count) return false;
  for (size_t i = 0; i < table->capacity; i++) {
    const ie_word *w = &table->slots[i];
    if (!w->text || w->size < 2 || w->size > UINT32_MAX) continue;
    t->start[t->words] = at;
    t->length[t->words] = (uint32_t)w->size;
    t->count[t->words++] = w->count;
    for (size_t k = 0; k < w->size; k++) t->symbols[at++] = id_of[(uint8_t)w->text[k]];
  }
  return true;
}

static void pairs_count(trainer *t) {
  for (size_t i = 0; i < t->words && !t->failed; i++) {
    const uint32_t *s = t->symbols + t->start[i];
    for (uint32_t k = 0; k + 1 < t->length[i]; k++) pair_change(t, s[k], s[k + 1], t->count[i], (uint32_t)i);
  }
}

/* Merges a pair in one word, from left to right, and counts what becomes of its neighbours. */
static void word_merge(trainer *t, uint32_t word, uint32_t left, uint32_t right, uint32_t result) {
  uint32_t *s = t->symbols + t->start[word], n = t->length[word], out = 0;
  int64_t count = t->count[word];
  for (uint32_t at = 0; at < n; at++) {
    if (s[at] != left || at + 1 >= n || s[at + 1] != right) {
      s[out++] = s[at];
      continue;
    }
    if (out > 0) {
      pair_change(t, s[out - 1], left, -count, word);
      pair_change(t, s[out - 1], result, count, word);
    }
    if (at + 2 < n) {
      pair_change(t, right, s[at + 2], -count, word);
      pair_change(t, result, s[at + 2], count, word);
    }
    s[out++] = result;
    at++;
  }
  t->length[word] = out;
}

/* ---- training ---- */

/* The token of left + right: a new one, unless there is one of these bytes. False when memory is out. */
static bool token_join(trainer *t, uint32_t left, uint32_t right, uint32_t *out) {
  size_t a, b;
  ie_buf joined = {0};
  const char *bytes = token_bytes(t, left, &a);
  bool ok = ie_buf_append(&joined, bytes, a);
  bytes = token_bytes(t, right, &b);
  ok = ok && ie_buf_append(&joined, bytes, b);
  uint32_t known = ok ? *name_slot(t, joined.data, joined.size) : 0;
  *out = known ? known - 1 : t->tokens;
  ok = ok && (known || token_add(t, joined.data, joined.size, /*named=*/true));
  ie_buf_free(&joined);
  return ok;
}

static bool merge_apply(trainer *t, const candidate *top) {
  ie_merge m = {.left = (uint32_t)(top->key >> 32), .right = (uint32_t)top->key};
  if (!token_join(t, m.left, m.right, &m.result) ||
      !array_grow(&t->merges, sizeof *t->merges, t->merge_count, &t->merge_capacity))
    return false;
  pair_slot_of(t, top->key)->last_rank = (uint32_t)t->merge_count;
  t->merges[t->merge_count++] = m;
  for (uint32_t i = 0; i < top->words.count; i++)
    word_merge(t, top->words.words[i], m.left, m.right, m.result);
  touched_queue(t);
  return !t->failed;
}

static ie_status merges_run(trainer *t, ie_error *error) {
  const ie_merge_options *o = t->options;
  uint32_t shown = t->tokens;
  while (t->tokens < o->vocab && t->heap_count && !t->failed) {
    candidate top = heap_pop(t);
    uint64_t count = (uint64_t)pair_slot_of(t, top.key)->count;
    if (top.count != count) {
      top.count = count;
      t->failed = !heap_push(t, top);
      if (t->failed) free(top.words.words);
      continue;
    }
    bool enough = count >= 1 && count >= (uint64_t)(o->min_frequency > 0 ? o->min_frequency : 0);
    if (enough) t->failed = !merge_apply(t, &top);
    free(top.words.words);
    if (!enough) break;
    if (o->progress && t->tokens - shown >= 32) {
      shown = t->tokens;
      if (!o->progress(o->user, t->tokens, o->vocab))
        return ie_error_set(error, IE_CANCELLED, "training the tokenizer was stopped");
    }
  }
  return t->failed ? ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the merges") : IE_OK;
}

/* ---- the result ---- */

static uint32_t stored_id(const trainer *t, uint32_t id) {
  uint32_t specials = (uint32_t)t->options->special_count;
  return id < specials ? t->tokens - specials + id : id - specials;
}

static ie_status result_make(const trainer *t, ie_merges *out, ie_error *error) {
  uint32_t specials = (uint32_t)t->options->special_count, plain = t->tokens - specials;
  out->tokens = t->tokens;
  out->specials = specials;
  out->offset = malloc(((size_t)plain + 1) * sizeof *out->offset);
  out->merges = malloc((t->merge_count ? t->merge_count : 1) * sizeof *out->merges);
  size_t from = t->offset[specials];
  if (!out->offset || !out->merges || !ie_buf_append(&out->bytes, t->blob.data + from, t->blob.size - from))
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the tokenizer");
  for (uint32_t i = 0; i <= plain; i++) out->offset[i] = t->offset[specials + i] - from;
  for (size_t i = 0; i < t->merge_count; i++) {
    const ie_merge *m = &t->merges[i];
    if (pair_slot_of(t, pair_key(m->left, m->right))->last_rank != i) continue;
    out->merges[out->count++] =
        (ie_merge){stored_id(t, m->left), stored_id(t, m->right), stored_id(t, m->result)};
  }
  return IE_OK;
}

static void trainer_free(trainer *t) {
  for (size_t i = 0; i < t->pair_capacity; i++) free(t->pairs[i].fresh.words);
  for (size_t i = 0; i < t->heap_count; i++) free(t->heap[i].words.words);
  free(t->pairs);
  free(t->heap);
  free(t->touched_keys);
  free(t->symbols);
  free(t->start);
  free(t->length);
  free(t->count);
  free(t->offset);
  free(t->by_name);
  free(t->merges);
  ie_buf_free(&t->blob);
}

ie_status ie_merges_train(const ie_word_table *words, const ie_merge_options *options, ie_merges *out,
                          ie_error *error) {
  *out = (ie_merges){0};
  trainer t = {.options = options, .name_capacity = 1024};
  if (options->special_count > options->vocab || options->vocab - options->special_count < 256 ||
      options->vocab > IE_MAX_TOKENS)
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "a vocabulary of %u: expected the 256 bytes, %zu special tokens, and at most %d in all",
        options->vocab, options->special_count, IE_MAX_TOKENS);
  while (t.name_capacity < 2 * (size_t)options->vocab) t.name_capacity *= 2;
  t.by_name = calloc(t.name_capacity, sizeof *t.by_name);
  t.offset = calloc((size_t)options->vocab + 1, sizeof *t.offset);
  uint32_t id_of[256] = {0};
  ie_status status = IE_OUT_OF_MEMORY;
  if (!t.by_name || !t.offset || !pairs_grow(&t)) goto no_memory;
  status = specials_add(&t, error);
  if (status != IE_OK) goto cleanup;
  status = IE_OUT_OF_MEMORY;
  if (!bytes_add(&t, id_of) || !words_add(&t, words, id_of)) goto no_memory;
  pairs_count(&t);
  touched_queue(&t);
  status = merges_run(&t, error);
  if (status == IE_OK) status = result_make(&t, out, error);
  goto cleanup;
no_memory:
  ie_error_set(error, status, "out of memory for %zu words", words->words);
cleanup:
  trainer_free(&t);
  if (status != IE_OK) ie_merges_free(out);
  return status;
}

void ie_merges_free(ie_merges *merges) {
  ie_buf_free(&merges->bytes);
  free(merges->offset);
  free(merges->merges);
  *merges = (ie_merges){0};
}
