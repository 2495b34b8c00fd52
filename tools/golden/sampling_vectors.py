"""Writes tests/data/numeric/sampling.{json,safetensors}: distributions after transformers' logits processors.

usage: sampling_vectors.py [--out tests/data/numeric]

Each case: float32 logits (V), the ids seen so far, parameters, and the distribution of transformers' processors in the
order of its generate(): repetition penalty, temperature, top-k, top-p, min-p, softmax. Kinds of logits: normal, nearly
flat, one far above, many equal ones ("ties": which of the equal ones stay at a cut is free), some masked by -infinity.
Distributions that a cut within 1e-5 of a cumulative sum would make depend on rounding are not written.
"""
import argparse
import json
import os

import torch
import transformers
from safetensors.torch import save_file
from transformers.generation import logits_process as lp

PARAMETERS = [
    {}, {"temperature": 0.7}, {"temperature": 3.0}, {"temperature": 0.05}, {"top_k": 1}, {"top_k": 13}, {"top_k": 600},
    {"top_p": 0.9}, {"top_p": 0.2}, {"top_p": 0.995}, {"min_p": 0.05}, {"min_p": 0.7}, {"repetition_penalty": 1.2},
    {"repetition_penalty": 0.7}, {"temperature": 0.7, "top_k": 50, "top_p": 0.95},
    {"repetition_penalty": 1.3, "temperature": 0.6, "top_k": 40, "top_p": 0.9, "min_p": 0.03},
    {"temperature": 2.0, "top_p": 0.8, "min_p": 0.1},
]


def logits_make(kind, generator):
    x = torch.randn(503, generator=generator)
    if kind == "normal":
        return 3 * x
    if kind == "flat":
        return 0.01 * x
    if kind == "peak":
        x[17] = 30.0
        return x
    if kind == "masked":
        x[::3] = -torch.inf
        return 2 * x
    return torch.round(2 * x)  # ties


def distribution(logits, seen, p):
    scores, ids = logits[None].clone(), seen[None]
    steps = []
    if "repetition_penalty" in p:
        steps.append(lp.RepetitionPenaltyLogitsProcessor(p["repetition_penalty"]))
    if "temperature" in p:
        steps.append(lp.TemperatureLogitsWarper(p["temperature"]))
    if "top_k" in p:
        steps.append(lp.TopKLogitsWarper(p["top_k"]))
    if "top_p" in p:
        steps.append(lp.TopPLogitsWarper(p["top_p"]))
    if "min_p" in p:
        steps.append(lp.MinPLogitsWarper(p["min_p"]))
    for step in steps:
        if isinstance(step, lp.TopPLogitsWarper):
            sums = scores[0].double().softmax(-1).sort(descending=True).values.cumsum(-1)
            if (sums - p["top_p"]).abs().min() < 1e-5:
                return None
        scores = step(ids, scores)
    return scores[0].double().softmax(-1).float()


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--out", default="tests/data/numeric")
    out = parser.parse_args().out
    generator = torch.Generator().manual_seed(11)
    cases, tensors = [], {}
    for kind in ("normal", "flat", "peak", "masked", "ties"):
        logits = logits_make(kind, generator)
        seen = torch.randint(0, 503, (9,), generator=generator)
        if kind == "masked":
            seen = seen // 3 * 3 + 1
        tensors[f"{kind}.logits"], tensors[f"{kind}.seen"] = logits, seen.int()
        for p in PARAMETERS:
            if kind == "masked" and p.get("repetition_penalty"):
                continue
            probs = distribution(logits, seen, p)
            if probs is None:
                continue
            tensors[f"case{len(cases)}.probs"] = probs
            cases.append({"logits": kind, "ties": kind == "ties", "parameters": p})
    os.makedirs(out, exist_ok=True)
    save_file(tensors, os.path.join(out, "sampling.safetensors"))
    with open(os.path.join(out, "sampling.json"), "w") as f:
        json.dump({"oracle": "transformers " + transformers.__version__, "cases": cases}, f, indent=0)
        f.write("\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
