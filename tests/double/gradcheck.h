/* Gradient checks: what the tape computes against central differences, in double.
 *
 * A case declares its variables once (setup), and runs an operation or several on them (run), which ends with outputs.
 * The function that is differentiated is the sum of outputs times fixed random cotangents, plus the losses. The checker
 * runs it with a tape for the analytic gradients, and without recording, at five step sizes, for the numeric ones; the
 * best agreement counts. It compares every entry of small variables (a sample of larger ones) with the largest of
 * its variable, and the derivative along random directions.
 *
 * The checker is itself checked: a gradient that is 0.1% off, as a whole or in its largest entry alone, must be found,
 * and a case must be refused by name when one of the launchers that it says it covers is missing. */
#ifndef CLOCHER_TESTS_DOUBLE_GRADCHECK_H
#define CLOCHER_TESTS_DOUBLE_GRADCHECK_H

#include "ops/ops.h"

enum { GRAD_VARIABLES = 64, GRAD_OUTPUTS = 8, GRAD_WEIGHTS = 32, GRAD_LAUNCHERS = 8 };

typedef struct grad_variable {
  ie_param param; /* value, gradient, shape; of an input tensor only these are used */
  bool is_input;
  ie_tensor *tensor; /* of this run, when it was asked for */
} grad_variable;

typedef struct grad_bench {
  ie_device *device;
  ie_ctx ctx;
  ie_tape *tape;
  grad_variable variable[GRAD_VARIABLES];
  int variables;
  ie_weight weight[GRAD_WEIGHTS];
  ie_vector vector[GRAD_WEIGHTS];
  int weights, vectors;
  ie_batch batch;
  ie_kv_layer kv;
  int32_t *ids, *position, *sequence; /* (tokens) of the batch, owned */
  int variant;                        /* the case's */
  /* Of one run: */
  ie_tensor *output[GRAD_OUTPUTS];
  int outputs;
  double loss;
} grad_bench;

typedef struct grad_case {
  const char *name;
  int variant; /* for the case's own use; b->variant */
  void (*setup)(grad_bench *b);
  void (*run)(grad_bench *b);
  size_t launchers[GRAD_LAUNCHERS]; /* offsets in ie_device_ops; 0 ends (the launcher there is embed's) */
} grad_case;
#define GRAD_LAUNCHER(name) offsetof(ie_device_ops, name)

/* --- For setup ---------------------------------------------------------------------------------------------- */

/* Uniform in [-spread, spread]. Returns the input's number. */
int grad_input(grad_bench *b, const char *name, int rank, const int64_t *shape, double spread);
/* (E, R, K) with a bias (E, R) or without one. */
ie_weight *grad_weight(grad_bench *b, const char *name, int64_t E, int64_t R, int64_t K, bool bias);
ie_vector *grad_vector(grad_bench *b, const char *name, int64_t n);
/* `sequences` of equal length that begin at `first`; ids below `vocabulary`. */
void grad_batch(grad_bench *b, int64_t sequences, int64_t length, int32_t first, int32_t vocabulary);
/* A reproducible number in [-1, 1]. */
double grad_noise(uint64_t stream, uint64_t i);

/* --- For run ------------------------------------------------------------------------------------------------- */

/* The input as a tensor of this run. */
ie_tensor *grad_tensor(grad_bench *b, int input);
/* NULL is passed over: the run has failed. */
void grad_output(grad_bench *b, ie_tensor *y);

/* --- The checks ---------------------------------------------------------------------------------------------- */

/* Fails the test where gradients differ, or where one of the checks of the check does. Prints the worst entry. */
void grad_check(const grad_case *c);

#endif
