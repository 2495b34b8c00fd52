#include "models/rope.h"

#include <math.h>
#include <string.h>

static const double two_pi = 6.283185307179586476925;

void ie_rope_plain(double theta, int64_t dim, ie_rope *out) {
  out->half = dim / 2;
  out->attention_factor = 1.0f;
  for (int64_t i = 0; i < out->half; i++)
    out->inv_freq[i] = (float)(1.0 / pow(theta, (double)(2 * i) / (double)dim));
}

/* The dimension whose wavelength makes `rotations` turns over the original context. */
static double correction_dim(const ie_yarn *yarn, double rotations, int64_t dim) {
  return (double)dim * log(yarn->original_context / (rotations * two_pi)) / (2.0 * log(yarn->theta));
}

void ie_rope_yarn(const ie_yarn *yarn, int64_t dim, ie_rope *out) {
  ie_rope_plain(yarn->theta, dim, out);
  out->attention_factor = (float)(yarn->attention_factor > 0 ? yarn->attention_factor
                                  : yarn->factor > 1         ? 0.1 * log(yarn->factor) + 1.0
                                                             : 1.0);
  double low = correction_dim(yarn, yarn->beta_fast, dim), high = correction_dim(yarn, yarn->beta_slow, dim);
  if (yarn->truncate) {
    low = floor(low);
    high = ceil(high);
  }
  low = fmax(low, 0.0);
  high = fmin(high, (double)(dim - 1));
  if (low == high) high += 0.001; /* as the reference: no division by zero */
  for (int64_t i = 0; i < out->half; i++) {
    double ramp = fmin(fmax(((double)i - low) / (high - low), 0.0), 1.0);
    double frequency = 1.0 / pow(yarn->theta, (double)(2 * i) / (double)dim);
    out->inv_freq[i] = (float)(frequency / yarn->factor * ramp + frequency * (1.0 - ramp));
  }
}

/* Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between interpolated. */
static void rope_llama3(ie_json_reader *config, double theta, int64_t dim, double context, ie_rope *out) {
  double factor = ie_json_number(config, "factor", 8.0, 1e-3, 1e6);
  double low = ie_json_number(config, "low_freq_factor", 1.0, 1e-6, 1e6);
  double high = ie_json_number(config, "high_freq_factor", 4.0, 1e-6, 1e6);
  double original = ie_json_number(config, "original_max_position_embeddings", context, 1, 1e12);
  ie_rope_plain(theta, dim, out);
  for (int64_t i = 0; i < out->half; i++) {
    double frequency = 1.0 / pow(theta, (double)(2 * i) / (double)dim), wavelength = two_pi / frequency;
    double smooth = (original / wavelength - low) / (high - low);
    if (wavelength > original / low)
      frequency /= factor;
    else if (wavelength >= original / high)
      frequency = (1.0 - smooth) * frequency / factor + smooth * frequency;
    out->inv_freq[i] = (float)frequency;
  }
}

static void rope_yarn_read(ie_json_reader *config, double theta, int64_t dim, double context, ie_rope *out) {
  ie_yarn yarn = {.theta = theta};
  yarn.factor = ie_json_number(config, "factor", 1.0, 1e-3, 1e6);
  yarn.original_context = ie_json_number(config, "original_max_position_embeddings", context, 1, 1e12);
  yarn.beta_fast = ie_json_number(config, "beta_fast", 32.0, 1e-6, 1e6);
  yarn.beta_slow = ie_json_number(config, "beta_slow", 1.0, 1e-6, 1e6);
  yarn.truncate = ie_json_bool(config, "truncate", true);
  yarn.attention_factor = ie_json_number(config, "attention_factor", 0.0, 0.0, 1e6);
  double mscale = ie_json_number(config, "mscale", 0.0, 0.0, 1e6);
  double all = ie_json_number(config, "mscale_all_dim", 0.0, 0.0, 1e6);
  if (yarn.attention_factor == 0 && mscale > 0 && all > 0 && yarn.factor > 1)
    yarn.attention_factor = (0.1 * mscale * log(yarn.factor) + 1.0) / (0.1 * all * log(yarn.factor) + 1.0);
  if (config->status == IE_OK) ie_rope_yarn(&yarn, dim, out);
}

void ie_rope_read(ie_json_reader *config, int64_t dim, double theta_default, int64_t context, ie_rope *out) {
  *out = (ie_rope){.half = dim / 2, .attention_factor = 1.0f};
  const json_t *scaling = ie_json_object(config, "rope_scaling");
  const json_t *parameters = ie_json_object(config, "rope_parameters");
  double theta = ie_json_number(config, "rope_theta", theta_default, 1.0 + 1e-9, 1e15);
  if (config->status != IE_OK) return;
  if (parameters) scaling = parameters;
  if (!scaling) {
    ie_rope_plain(theta, dim, out);
    return;
  }
  ie_json_reader inner = {.object = scaling, .where = config->where, .error = config->error};
  theta = ie_json_number(&inner, "rope_theta", theta, 1.0 + 1e-9, 1e15);
  const char *type = ie_json_string(&inner, "rope_type", ie_json_string(&inner, "type", "default"));
  if (inner.status != IE_OK) {
    config->status = inner.status;
    return;
  }
  if (!strcmp(type, "default")) {
    ie_rope_plain(theta, dim, out);
  } else if (!strcmp(type, "yarn")) {
    rope_yarn_read(&inner, theta, dim, (double)context, out);
  } else if (!strcmp(type, "llama3")) {
    rope_llama3(&inner, theta, dim, (double)context, out);
  } else if (!strcmp(type, "linear")) {
    double factor = ie_json_number(&inner, "factor", 1.0, 1e-3, 1e6);
    ie_rope_plain(theta, dim, out);
    for (int64_t i = 0; i < out->half; i++) out->inv_freq[i] = (float)(out->inv_freq[i] / factor);
  } else {
    inner.status = ie_error_set(config->error, IE_UNSUPPORTED,
                                "%s: rope_type '%s' is not supported, only default, "
                                "linear, yarn and llama3",
                                config->where, type);
  }
  config->status = inner.status;
}
