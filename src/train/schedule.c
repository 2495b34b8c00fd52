#include "train/schedule.h"

#include "base/size.h"

#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

static const char *const names[IE_SCHEDULE_COUNT] = {"constant", "linear", "cosine", "step"};

const char *ie_schedule_name(ie_schedule_kind kind) {
  return names[kind];
}

ie_status ie_schedule_check(const ie_schedule *s, ie_error *error) {
  if (s->warmup < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "schedule: expected at least 0 steps of warm-up, found %lld", (long long)s->warmup);
  if (!(s->final_factor >= 0 && s->final_factor <= 1))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "schedule: expected a final factor of 0 to 1, found %g",
                        s->final_factor);
  if ((s->kind == IE_SCHEDULE_LINEAR || s->kind == IE_SCHEDULE_COSINE) &&
      (s->total < 1 || s->total < s->warmup))
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "schedule %s: expected at least one step and no less than the warm-up's %lld, found %lld",
        names[s->kind], (long long)s->warmup, (long long)s->total);
  if (s->kind != IE_SCHEDULE_STEP) return IE_OK;
  if (s->every < 1)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "schedule step: expected at least 1 step between two falls, found %lld",
                        (long long)s->every);
  if (!(s->gamma > 0 && s->gamma <= 1))
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "schedule step: expected a gamma above 0 and at most 1, found %g", s->gamma);
  return IE_OK;
}

/* transformers' expressions, operation by operation. */
double ie_schedule_factor(const ie_schedule *s, int64_t step) {
  if (step < s->warmup) return (double)step / (double)ie_max_i64(1, s->warmup);
  const double span = (double)ie_max_i64(1, s->total - s->warmup), final = s->final_factor;
  switch (s->kind) {
  case IE_SCHEDULE_LINEAR: {
    double factor = fmax(0.0, (double)(s->total - step) / span);
    return factor * (1 - final) + final;
  }
  case IE_SCHEDULE_COSINE: {
    double progress = fmin(1.0, (double)(step - s->warmup) / span);
    double factor = fmax(0.0, 0.5 * (1.0 + cos(pi * progress)));
    return factor * (1 - final) + final;
  }
  case IE_SCHEDULE_STEP: return fmax(final, pow(s->gamma, (double)((step - s->warmup) / s->every)));
  default: return 1.0;
  }
}
