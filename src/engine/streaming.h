/* Weights that are read while the model computes: the experts that the router names, the embedding's rows of a
 * forward's tokens.
 *
 * A stream is the provider of a model's experts (tensor/experts.h). As soon as the router has spoken it asks for what is
 * missing, gives out what is there first, and the rest as it arrives. An expert's four parts (blocks and scales of gate
 * and up, and of down) lie in four places of the files, none of them aligned to pages: each is read as the pages that
 * hold it, and computed where it then lies.
 *
 * The rows of the embedding keep their addresses: pages of memory take the place of the mapping's and are filled when a
 * token needs them; when their number reaches the plan's, all of them are let go.
 *
 * A failed read fails the forward that waits for it (IE_IO) and is forgotten: the next forward tries again. One that
 * was a guess fails nothing.
 * Ownership: the model frees its stream, after all states. One thread at a time. */
#ifndef CLOCHER_ENGINE_STREAMING_H
#define CLOCHER_ENGINE_STREAMING_H

#include "base/reader.h"
#include "engine/expert_cache.h"
#include "engine/placement.h"

typedef struct ie_stream ie_stream;

typedef struct ie_stream_options {
  ie_reader_options reader;
  ie_cache_rule rule;
} ie_stream_options;

/* Brings a model's weights where the placement (of this model, streamed) says, and gives the model its stream. After a
 * failure the model is good for nothing but being freed. */
ie_status ie_stream_open(ie_model *model, const ie_placement *placement, const ie_stream_options *options,
                         ie_error *error);

/* The provider to put into a forward's context. */
ie_experts *ie_stream_experts(ie_stream *stream);

/* Makes the rows of n ids readable; IE_CANCELLED when the forward's context says so meanwhile. */
ie_status ie_stream_rows(ie_stream *stream, const ie_ctx *ctx, const int32_t *ids, int64_t n,
                         ie_error *error);

void ie_stream_describe(const ie_stream *stream, ie_stream_stats *out);

#endif
