"""What torch.optim.AdamW and Muon do to small parameters: tests/data/training/optimisers.safetensors.

Muon is written here from its description (Jordan et al. 2024), in bfloat16 as published.
"""
import argparse
import os

import torch
from safetensors.torch import save_file

STEPS = 6
SHAPES = {"square": (9, 9), "tall": (20, 7), "wide": (6, 17), "vector": (37,), "stack": (3, 5, 8)}
ADAMW = {"adamw": dict(lr=1e-2, betas=(.9, .95), eps=1e-8, weight_decay=.1), "adamw_defaults": dict(lr=1e-3),
         "adamw_fast": dict(lr=3e-3, betas=(.3, .6), eps=1e-6, weight_decay=0.)}


def adamw(start, grads, settings):
    param = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([param], foreach=False, **settings)
    values = []
    for grad in grads:
        param.grad = grad.clone()
        optimiser.step()
        values.append(param.detach().clone())
    state = optimiser.state[param]
    return torch.stack(values), state["exp_avg"], state["exp_avg_sq"]


def orthogonal(matrix):
    x = matrix.bfloat16()
    turned = x.size(0) > x.size(1)
    x = x.T if turned else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        b = -4.7750 * a + 2.0315 * a @ a
        x = 3.4445 * x + b @ x
    return (x.T if turned else x).float()


def muon(start, grads, rate=.02, momentum=.95):
    value, buffer, values = start.clone(), torch.zeros_like(start), []
    for grad in grads:
        buffer.lerp_(grad, 1 - momentum)
        update = orthogonal(grad.lerp(buffer, momentum))
        value = value - rate * max(1, value.size(0) / value.size(1)) ** .5 * update
        values.append(value.clone())
    return torch.stack(values)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True, help="folder")
    out = parser.parse_args().out
    torch.manual_seed(1)
    tensors = {}
    for name, shape in SHAPES.items():
        start, grads = torch.randn(shape) * .5, torch.randn(STEPS, *shape)
        tensors[name + ".start"], tensors[name + ".grads"] = start, grads
        for case, settings in ADAMW.items():
            values, first, second = adamw(start, grads, settings)
            tensors[f"{name}.{case}"] = values
            tensors[f"{name}.{case}.exp_avg"], tensors[f"{name}.{case}.exp_avg_sq"] = first, second
        if len(shape) == 2:
            tensors[name + ".muon"] = muon(start, grads)
        if len(shape) == 3:
            each = [muon(start[e], grads[:, e]) for e in range(shape[0])]
            tensors[name + ".muon"] = torch.stack(each, dim=1)
    os.makedirs(out, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(out, "optimisers.safetensors"))


if __name__ == "__main__":
    main()
