#include "text/word_count.h"

#include "clocher/text.h"
#include "text/split.h"

#include <stdlib.h>
#include <string.h>

/* A document is handed out in parts of about so many bytes. */
enum { PART_BYTES = 1 << 19, WAVE_PARTS = 16, TABLE_START = 1 << 12 };

void ie_word_table_free(ie_word_table *table) {
  free(table->slots);
  *table = (ie_word_table){0};
}

/* ---- one table ---- */

/* The slot of a word, or the empty one where it belongs. */
static ie_word *table_slot(const ie_word_table *t, const char *text, size_t size, uint64_t hash) {
  for (size_t i = (size_t)hash & (t->capacity - 1);; i = (i + 1) & (t->capacity - 1)) {
    ie_word *w = &t->slots[i];
    if (!w->text || (w->hash == hash && w->size == size && memcmp(w->text, text, size) == 0)) return w;
  }
}

static bool table_grow(ie_word_table *t) {
  ie_word_table next = *t;
  next.capacity = t->capacity ? 2 * t->capacity : TABLE_START;
  next.slots = calloc(next.capacity, sizeof *next.slots);
  if (!next.slots) return false;
  for (size_t i = 0; i < t->capacity; i++) {
    const ie_word *w = &t->slots[i];
    if (w->text) *table_slot(&next, w->text, w->size, w->hash) = *w;
  }
  free(t->slots);
  *t = next;
  return true;
}

static bool table_add(ie_word_table *t, const char *text, size_t size, uint64_t hash, int64_t count) {
  if (2 * t->words >= t->capacity && !table_grow(t)) return false;
  ie_word *w = table_slot(t, text, size, hash);
  if (!w->text) {
    *w = (ie_word){.text = text, .size = size, .hash = hash};
    t->words++;
  }
  w->count += count;
  return true;
}

/* ---- parts of documents ---- */

typedef struct part {
  const char *text;
  size_t size;
} part;

typedef struct counter {
  const ie_splitter *splitter;
  const ie_char_classes *classes;
  ie_documents documents;
  part rest;             /* of a long document */
  part *parts;           /* (WAVE_PARTS threads) */
  int64_t count;         /* of this wave */
  ie_word_table *tables; /* (threads) */
  bool *failed;          /* (threads) memory was out */
  uint64_t document_count;
} counter;

/* Where a long document may be cut without changing its pieces: behind a line feed and before an ASCII letter. The
 * patterns of the families cl100k and o200k end every piece there, whatever stands around; GPT-2's does not (a run of
 * line feeds is cut before its last one only when something follows). */
static size_t part_size(const counter *c, const char *p, size_t n) {
  if (n <= 2 * PART_BYTES || c->splitter->family == IE_FAMILY_GPT2) return n;
  for (size_t i = PART_BYTES; i + 1 < n; i++)
    if (p[i] == '\n' && (((uint8_t)p[i + 1] | 0x20) - (unsigned)'a') < 26) return i + 1;
  return n;
}

static bool part_next(counter *c, part *out) {
  if (c->rest.size == 0) {
    if (!ie_documents_next(&c->documents, &c->rest.text, &c->rest.size)) return false;
    c->document_count++;
  }
  *out = (part){c->rest.text, part_size(c, c->rest.text, c->rest.size)};
  c->rest.text += out->size;
  c->rest.size -= out->size;
  return true;
}

static bool piece_count(const counter *c, ie_word_table *table, const char *p, size_t n) {
  for (size_t at = 0; at < n;) {
    size_t size = ie_split_family_next(c->splitter, c->classes, p + at, n - at);
    if (!table_add(table, p + at, size, ie_text_hash(p + at, size), 1)) return false;
    table->pieces++;
    at += size;
  }
  return true;
}

static void part_count(void *arg, int thread, int64_t begin, int64_t end) {
  counter *c = arg;
  for (int64_t i = begin; i < end && !c->failed[thread]; i++) {
    const part *p = &c->parts[i];
    for (size_t at = 0; at < p->size;) {
      size_t valid = ie_utf8_valid(p->text + at, p->size - at);
      if (valid && !piece_count(c, &c->tables[thread], p->text + at, valid)) c->failed[thread] = true;
      at += valid + (at + valid < p->size); /* and one byte that is none of a character */
    }
  }
}

/* ---- the whole ---- */

static ie_status no_memory(ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the words of the text");
}

static ie_status waves_run(counter *c, ie_team *team, const ie_word_options *options, ie_error *error) {
  int threads = ie_team_size(team);
  do {
    c->count = 0;
    while (c->count < (int64_t)WAVE_PARTS * threads && part_next(c, &c->parts[c->count])) c->count++;
    ie_team_for(team, c->count, 1, part_count, c);
    for (int i = 0; i < threads; i++)
      if (c->failed[i]) return no_memory(error);
    if (options->progress &&
        !options->progress(options->user, c->documents.at - c->rest.size, c->documents.size))
      return ie_error_set(error, IE_CANCELLED, "counting words was stopped");
  } while (c->count > 0);
  return IE_OK;
}

/* All tables into the first. */
static ie_status tables_join(counter *c, int threads, ie_error *error) {
  ie_word_table *sum = &c->tables[0];
  for (int i = 1; i < threads; i++) {
    ie_word_table *t = &c->tables[i];
    for (size_t k = 0; k < t->capacity; k++) {
      const ie_word *w = &t->slots[k];
      if (w->text && !table_add(sum, w->text, w->size, w->hash, w->count)) return no_memory(error);
    }
    sum->pieces += t->pieces;
    ie_word_table_free(t);
  }
  sum->documents = c->document_count;
  return IE_OK;
}

ie_status ie_word_count(ie_team *team, const char *text, size_t size, const ie_word_options *options,
                        ie_word_table *out, ie_error *error) {
  *out = (ie_word_table){0};
  size_t threads = (size_t)ie_team_size(team);
  const ie_image_stage stage = {
      .kind = IE_STAGE_REGEX, .behavior = IE_SPLIT_ISOLATED, .text = {0, (uint32_t)strlen(options->pattern)}};
  ie_splitter splitter;
  ie_status status = ie_splitter_open(&stage, options->pattern, /*no_family=*/false, &splitter, error);
  if (status != IE_OK) return status;
  ie_char_classes *classes = ie_char_classes_new();
  counter c = {.splitter = &splitter, .classes = classes, .documents = {.text = text, .size = size}};
  c.parts = calloc(WAVE_PARTS * threads, sizeof *c.parts);
  c.tables = calloc(threads, sizeof *c.tables);
  c.failed = calloc(threads, sizeof *c.failed);
  if (splitter.family == IE_FAMILY_NONE)
    status = ie_error_set(error, IE_UNSUPPORTED, "a pattern that is not run by hand: %s", options->pattern);
  else if (!classes || !c.parts || !c.tables || !c.failed)
    status = no_memory(error);
  if (status == IE_OK) status = waves_run(&c, team, options, error);
  if (status == IE_OK) status = tables_join(&c, (int)threads, error);
  if (status == IE_OK) {
    *out = c.tables[0];
    c.tables[0] = (ie_word_table){0};
  }
  for (size_t i = 0; c.tables && i < threads; i++) ie_word_table_free(&c.tables[i]);
  free(c.tables);
  free(c.parts);
  free(c.failed);
  ie_char_classes_free(classes);
  ie_splitter_close(&splitter);
  return status;
}
