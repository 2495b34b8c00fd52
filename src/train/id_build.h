/* Tokenises a source to an id file, in parallel.
 *
 * Kinds of sources: an id file is used as it is; PATH.jsonl holds a JSON object a line (train/rows.h; blank lines are
 * skipped); anything else is text, its documents separated by lines `<|endoftext|>` (clocher/text.h).
 *
 * The id file of a source lies in the cache folder as NAME-XXXXXXXX.ids, where X stand for the source's full path and
 * for how it is read (kind, begin and end token, chat format, date). It is used again when it is whole, the source has
 * the same size and SHA-256, and its tokenizer has the same hash. With another tokenizer it is refused: the ids of a
 * run that goes on must not change silently. In all other cases it is made anew. It appears under its name only when it
 * is complete, so that a process that is killed leaves the old one or none.
 *
 * Tokens around documents of text. By default the end token is the first of these that the tokenizer has:
 * <|endoftext|>, <|end_of_text|>, </s>; a tokenizer that has none of them but <|bos|> (nanochat's) begins documents with
 * that. */
#ifndef CLOCHER_TRAIN_ID_BUILD_H
#define CLOCHER_TRAIN_ID_BUILD_H

#include "train/data.h"
#include "train/id_file.h"

/* Maps the id file of options->path, after making it where that is needed (*built). Only the options that say how a
 * source becomes ids are read. The caller closes *map, whose path names the id file. */
ie_status ie_id_build(const ie_data_options *options, ie_map *map, ie_id_file *out, bool *built,
                      ie_error *error);

#endif
