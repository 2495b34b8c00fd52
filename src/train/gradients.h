/* Inside of clocher/gradients.h for the rest of training. */
#ifndef CLOCHER_TRAIN_GRADIENTS_H
#define CLOCHER_TRAIN_GRADIENTS_H

#include "clocher/gradients.h"
#include "models/arch.h"
#include "ops/tape.h"

/* All that are computed, in the order of their gradients in the block. */
const ie_param_list *ie_gradients_params(const ie_gradients *g);
/* Called during the backward of each ie_gradients_add, once for each parameter, when that call adds nothing more to its
 * gradient. Of several calls (micro-batches) whoever adds up gradients wants the last one only. */
void ie_gradients_on_ready(ie_gradients *g, void (*ready)(void *arg, ie_param *param), void *arg);
/* Weight in what is minimised of the mean over layers of each router's balance loss, which is top_k when all experts are
 * used alike (transformers takes one loss over the pooled layers: the same for one layer). */
void ie_gradients_balance(ie_gradients *g, double coefficient);
/* Since it was asked last; all zero without routers. */
typedef struct ie_route_report {
  double
      loss; /* mean over routers and forwards of the balance loss over the experts a token chooses: 1 when all
                        are used alike */
  double idle_share;    /* of the experts of all layers: chosen by no token */
  int64_t fewest, most; /* tokens that chose an expert */
  double mean;
  int64_t worst_layer, worst_idle,
      worst_experts;        /* the layer with the largest share of idle experts: how many, of how many */
  int64_t routers, experts; /* that the counters are of */
  const int64_t *chosen;    /* (experts) the counters, router after router; until it is asked again */
} ie_route_report;
void ie_gradients_balance_take(ie_gradients *g, ie_route_report *out);
/* The counters behind that as `ie_gradients_counter_count` numbers that can be added up over forwards and processes. take
 * writes them to out and zeroes them; add adds to them. */
size_t ie_gradients_counter_count(const ie_gradients *g);
void ie_gradients_counters_take(ie_gradients *g, double *out);
void ie_gradients_counters_add(ie_gradients *g, const double *counters);
/* The gradients of all parameters, one after the other (with zeros between): *count numbers. */
real *ie_gradients_block(ie_gradients *g, size_t *count);

#endif
