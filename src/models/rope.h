/* Rotary position embedding: the frequencies that a config asks for.
 *
 * Plain (Su et al. 2021), linear, YaRN (Peng et al. 2023, as transformers' modeling_rope_utils computes it, with
 * `truncate`), Llama 3's scaling. Read from `rope_scaling` + `rope_theta` (transformers 4) or `rope_parameters`
 * (transformers 5). Computed in double, rounded once. */
#ifndef CLOCHER_MODELS_ROPE_H
#define CLOCHER_MODELS_ROPE_H

#include "base/json.h"

enum { IE_ROPE_HALF_MAX = 512 }; /* half of the largest head dimension */

typedef struct ie_rope {
  int64_t half;                     /* D/2 */
  float inv_freq[IE_ROPE_HALF_MAX]; /* (half) radians per position */
  float attention_factor;           /* cos and sin are multiplied by it (YaRN's "mscale"); else 1 */
  bool bf16;                        /* the reference stores cos and sin in bfloat16 */
} ie_rope;

typedef struct ie_yarn {
  double theta, factor, original_context;
  double beta_fast, beta_slow;
  double attention_factor; /* 0: 0.1 ln(factor) + 1 */
  bool truncate;           /* round the correction range to whole dimensions */
} ie_yarn;

/* dim: rotated dimensions of a head, even, at most 2 * IE_ROPE_HALF_MAX. */
void ie_rope_plain(double theta, int64_t dim, ie_rope *out);
void ie_rope_yarn(const ie_yarn *yarn, int64_t dim, ie_rope *out);

/* From config.json. context: max_position_embeddings, for schemes that default their original context to it. The
 * reader keeps the error; an unknown rope_type is IE_UNSUPPORTED and named. */
void ie_rope_read(ie_json_reader *config, int64_t dim, double theta_default, int64_t context, ie_rope *out);

#endif
