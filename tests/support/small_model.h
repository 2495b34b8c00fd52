/* The small golden model for tests that run the program, and what they read from its JSON. Everything here fails the
 * test when it fails. */
#ifndef CLOCHER_TESTS_SUPPORT_SMALL_MODEL_H
#define CLOCHER_TESTS_SUPPORT_SMALL_MODEL_H

#include "clocher/tensor.h"

#include <jansson.h>

#define SMALL_MODEL "tests/data/models/gpt-oss-hf"
enum { SMALL_MODEL_VOCAB = 259 };

/* A folder (tempdir_remove) with the model and a tokenizer of single bytes. */
char *text_model_make(void);

/* The `vocab` of a tokenizer.json whose tokens 0 to 255 are the bytes. A new reference. */
json_t *byte_vocab_make(void);

/* Packs the weights of dir, which has one model.safetensors of less than a MiB, into model.ie.json and model.ie.bin and
 * removes that file. */
void iebin_pack(const char *dir);

/* Row i of `clocher run --json`, borrowed. */
json_t *result_row(json_t *result, size_t i);
/* The new ids of one row, as JSON text in fresh memory. */
char *result_new_ids(json_t *result, size_t row);
void result_ids_equal(json_t *a, size_t row_a, json_t *b, size_t row_b);
/* No value within is null. */
void result_no_nulls(const json_t *value);
int64_t result_integer(const json_t *object, const char *key);

ie_tensor_file *tensors_open(const char *path);

#endif
