/* Inside of clocher/gradients.h for the rest of training. */
#ifndef CLOCHER_TRAIN_GRADIENTS_H
#define CLOCHER_TRAIN_GRADIENTS_H

#include "clocher/gradients.h"
#include "models/arch.h"
#include "ops/tape.h"

/* The parameters that are trained; borrowed. */
const ie_param_list *ie_gradients_params(const ie_gradients *g);
/* Called during the backward of ie_gradients_add as each parameter's gradient is complete. */
void ie_gradients_on_ready(ie_gradients *g, void (*ready)(void *arg, ie_param *param), void *arg);
/* Weight of the mean of the routers' balance losses in what is minimised (transformers' router_aux_loss_coef). */
void ie_gradients_balance(ie_gradients *g, double coefficient);
/* Since it was asked last; all zero without routers. */
typedef struct ie_route_report {
  double
      loss; /* mean over routers and forwards of the balance loss over the experts a token chooses: 1 when all
                        are used alike */
  double idle_share;    /* of the experts of all layers: chosen by no token */
  int64_t fewest, most; /* tokens that chose an expert */
  double mean;
} ie_route_report;
void ie_gradients_balance_take(ie_gradients *g, ie_route_report *out);
/* What the forwards and backwards computed since it was asked last: 2 per multiply-add. */
uint64_t ie_gradients_flop_take(ie_gradients *g);

#endif
