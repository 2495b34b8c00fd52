#!/usr/bin/env python3
"""Writes tiny random gpt-oss checkpoints in the published layouts, and what transformers answers.

    tools/golden/gpt_oss.py --out tests/data/models            all of them, from fixed seeds
    tools/golden/gpt_oss.py --out D --only gpt-oss-hf          one
    tools/golden/gpt_oss.py --out D --search 50                try further seeds, print which would do

The files of each folder are described in tests/data/README.md. transformers answers in float32 with
eager attention and eager experts; before a reference is written it is compared with forward.py, an
independent implementation, in float64, and every mistake in forward.WRONG that the model can show
must change the logits by more than ten times the tolerance.
"""
import argparse
import json
import os
import sys

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # see tools/README.md
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, Mxfp4Config

import checkpoint
import forward

NEW = 24                 # greedy tokens of each case
LENGTHS = (5, 40, 150)   # the second crosses every window, the third several chunks
TOLERANCE = 1e-4         # class fp32, of the largest logit


class Spec:
    """One golden model: dimensions, how its config.json is written, and the seed that was found."""

    def __init__(self, name, seed, layout, **kw):
        self.name, self.seed, self.layout = name, seed, layout
        self.style, self.shards = kw.pop("style", 4), kw.pop("shards", 1)
        self.eos, self.generation = kw.pop("eos"), kw.pop("generation", True)
        self.gate = kw.pop("gate")  # standard deviation of gate and up before the clamp
        for key, value in kw.items():
            setattr(self, key, value)


MODELS = [
    # Dimensions that no power of two divides, one key/value head, several stop ids.
    Spec("gpt-oss-hf", 1, "hf", vocabulary=259, hidden=96, layers=3, heads=5, kv_heads=1, head=24,
         experts=5, active=2, intermediate=64, window=8, limit=7.0, gate=3.0, epsilon=1e-5, eos=[2, 257],
         sliding=[True, False, True],
         rope={"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
               "original_max_position_embeddings": 64}, theta=150000.0),
    # config.json as transformers 5 writes it, plain rope, layer types that do not alternate.
    Spec("gpt-oss-hf-v5", 1, "hf", style=5, vocabulary=131, hidden=64, layers=3, heads=6, kv_heads=3, head=16,
         experts=7, active=3, intermediate=32, window=12, limit=2.0, gate=1.5, epsilon=1e-6, eos=[1, 3, 129],
         sliding=[False, True, True], rope={"rope_type": "default"}, theta=10000.0),
    Spec("gpt-oss-original", 3, "original", vocabulary=259, hidden=64, layers=3, heads=6, kv_heads=2, head=24,
         experts=5, active=2, intermediate=96, window=8, limit=7.0, gate=3.0, epsilon=1e-5, eos=[0],
         sliding=[True, False, True],
         rope={"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
               "original_max_position_embeddings": 128}, theta=150000.0),
    # Unquantised experts, input first, dimensions that are no multiple of 32, three shards; YaRN without
    # `truncate`, which transformers takes as true; the stop id stands in config.json only.
    Spec("gpt-oss-bf16", 3, "bf16", shards=3, vocabulary=259, hidden=72, layers=3, heads=4, kv_heads=2, head=24,
         experts=5, active=2, intermediate=40, window=8, limit=7.0, gate=3.0, epsilon=1e-5, eos=2,
         generation=False, sliding=[True, False, True],
         rope={"rope_type": "yarn", "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
               "original_max_position_embeddings": 256}, theta=150000.0),
]


def random_parameters(s, seed):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, std=1.0, mean=0.0):
        return mean + std * torch.randn(*shape, generator=g)
    d, f, q, k = s.hidden, s.intermediate, s.heads * s.head, s.kv_heads * s.head
    p = {"model.embed_tokens.weight": normal(s.vocabulary, d), "model.norm.weight": normal(d, std=0.2, mean=1),
         "lm_head.weight": normal(s.vocabulary, d, std=d**-0.5)}
    for i in range(s.layers):
        n = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            p[n + norm + ".weight"] = normal(d, std=0.2, mean=1)
        for name, rows in (("q", q), ("k", k), ("v", k)):
            p[n + f"self_attn.{name}_proj.weight"] = normal(rows, d, std=d**-0.5)
            p[n + f"self_attn.{name}_proj.bias"] = normal(rows, std=0.3)
        p[n + "self_attn.o_proj.weight"] = normal(d, q, std=q**-0.5)
        p[n + "self_attn.o_proj.bias"] = normal(d, std=0.1)
        p[n + "self_attn.sinks"] = normal(s.heads, mean=1)
        p[n + "mlp.router.weight"] = normal(s.experts, d, std=d**-0.5)
        p[n + "mlp.router.bias"] = normal(s.experts, std=0.5)
        p[n + "mlp.experts.gate_up_proj"] = normal(s.experts, d, 2 * f, std=s.gate * d**-0.5)
        p[n + "mlp.experts.gate_up_proj_bias"] = normal(s.experts, 2 * f, std=0.3)
        p[n + "mlp.experts.down_proj"] = normal(s.experts, f, d, std=f**-0.5 / s.gate)
        p[n + "mlp.experts.down_proj_bias"] = normal(s.experts, d, std=0.1)
    return p


def config_file(s):
    if s.layout == "original":
        return {"num_hidden_layers": s.layers, "num_experts": s.experts, "experts_per_token": s.active,
                "vocab_size": s.vocabulary, "hidden_size": s.hidden, "intermediate_size": s.intermediate,
                "swiglu_limit": s.limit, "head_dim": s.head, "num_attention_heads": s.heads,
                "num_key_value_heads": s.kv_heads, "sliding_window": s.window,
                "initial_context_length": s.rope["original_max_position_embeddings"], "rope_theta": s.theta,
                "rope_scaling_factor": s.rope["factor"], "rope_ntk_alpha": 1, "rope_ntk_beta": 32}
    c = {"architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
         "eos_token_id": s.eos, "head_dim": s.head, "hidden_act": "silu", "hidden_size": s.hidden,
         "initializer_range": 0.02, "intermediate_size": s.intermediate,
         "layer_types": ["sliding_attention" if x else "full_attention" for x in s.sliding],
         "max_position_embeddings": int(s.rope["factor"] * s.rope["original_max_position_embeddings"])
         if "factor" in s.rope else 2048, "model_type": "gpt_oss", "num_attention_heads": s.heads,
         "num_experts_per_tok": s.active, "num_hidden_layers": s.layers, "num_key_value_heads": s.kv_heads,
         "num_local_experts": s.experts, "output_router_logits": False, "pad_token_id": None,
         "rms_norm_eps": s.epsilon, "router_aux_loss_coef": 0.9, "sliding_window": s.window,
         "swiglu_limit": s.limit, "tie_word_embeddings": False, "use_cache": True, "vocab_size": s.vocabulary}
    if s.layout == "hf":
        c["quantization_config"] = {"modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4"}
    if s.style == 4:
        c.update(rope_scaling=s.rope, rope_theta=s.theta, torch_dtype="bfloat16", transformers_version="4.57.0",
                 experts_per_token=s.active, initial_context_length=s.rope["original_max_position_embeddings"])
    else:
        c.update(rope_parameters={**s.rope, "rope_theta": s.theta}, dtype="bfloat16",
                 transformers_version=transformers.__version__)
    return c


def write_checkpoint(s, seed, directory):
    p = random_parameters(s, seed)
    tensors = {"hf": checkpoint.tensors_hf, "bf16": checkpoint.tensors_bf16,
               "original": lambda x: checkpoint.tensors_original(x, s.layers)}[s.layout](p)
    generation = {"_from_model_config": True, "eos_token_id": s.eos[0] if len(s.eos) == 1 else s.eos,
                  "transformers_version": "4.57.0"} if s.generation else None
    checkpoint.write(directory, tensors, config_file(s), generation, s.shards)


def load_transformers(directory):
    """The checkpoint in transformers, float32, eager. OpenAI's layout goes in by name."""
    how = {"attn_implementation": "eager", "experts_implementation": "eager", "dtype": torch.float32}
    p, c = checkpoint.read_parameters(directory), checkpoint.read_config(directory)
    if c["original"]:
        config = GptOssConfig(
            num_hidden_layers=c["layers"], num_local_experts=c["experts"], vocab_size=c["vocabulary"],
            hidden_size=c["hidden"], intermediate_size=c["intermediate"], head_dim=c["head"],
            num_attention_heads=c["heads"], num_key_value_heads=c["kv_heads"], sliding_window=c["window"],
            num_experts_per_tok=c["active"], swiglu_limit=c["limit"], rope_parameters=c["rope"],
            max_position_embeddings=int(c["rope"]["factor"] * c["rope"]["original_max_position_embeddings"]))
        model = GptOssForCausalLM._from_config(config, **how)
        model.load_state_dict(p, strict=True)
        return model.eval()
    with open(os.path.join(directory, "config.json")) as f:
        quantised = "quantization_config" in json.load(f)
    model = AutoModelForCausalLM.from_pretrained(
        directory, **how, **({"quantization_config": Mxfp4Config(dequantize=True)} if quantised else {}))
    state = model.state_dict()
    assert state.keys() == p.keys(), state.keys() ^ p.keys()
    for name in p:  # both read the same numbers, to the bit
        assert torch.equal(state[name].float(), p[name]), name
    return model.eval()


@torch.no_grad()
def run_transformers(model, ids):
    """logits (T, V) and the residual stream before the first and after each layer."""
    hidden = []
    keep = lambda module, inputs, out: hidden.append((out[0] if isinstance(out, tuple) else out)[0])
    hooks = [m.register_forward_hook(keep) for m in (model.model.embed_tokens, *model.model.layers)]
    logits = model(torch.as_tensor(ids)[None], use_cache=False).logits[0]
    for h in hooks:
        h.remove()
    return logits, hidden


def greedy(model, ids):
    new, gaps = [], []
    for _ in range(NEW):
        last = run_transformers(model, ids + new)[0][-1]
        top = last.topk(2)
        new.append(int(top.indices[0]))
        gaps.append(float((top.values[0] - top.values[1]) / last.abs().max()))
    return new, gaps


def relative(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def case_ids(s, seed):
    g = torch.Generator().manual_seed(1000 + seed)
    cases = [torch.randint(s.vocabulary, (n,), generator=g).tolist() for n in LENGTHS]
    cases[0][1], cases[1][-1] = s.vocabulary - 1, 0  # the first and the last row of the embedding
    return cases


def build(s, seed, directory):
    """Writes the folder; returns why the seed is no good, or None."""
    write_checkpoint(s, seed, directory)
    model = load_transformers(directory)
    c, p = checkpoint.read_config(directory), checkpoint.read_parameters(directory)
    tensors, noise, margin, gaps = {}, 0.0, float("inf"), []
    for i, ids in enumerate(case_ids(s, seed)):
        logits, hidden = run_transformers(model, ids)
        new, gap = greedy(model, ids)
        exact = forward.Model(c, p)
        noise = max(noise, relative(logits, exact(ids)[0]))
        exact(ids + new[:-1])
        margin, gaps = min(margin, exact.margin), gaps + gap
        if set(new) & set(s.eos if isinstance(s.eos, list) else [s.eos]):
            return "a stop id occurs"
        tensors.update({f"case{i}.ids": torch.tensor(ids, dtype=torch.int32),
                        f"case{i}.logits": logits.contiguous(),
                        f"case{i}.greedy": torch.tensor(new, dtype=torch.int32), f"case{i}.gap": torch.tensor(gap)})
        if i == 1:
            tensors.update({f"hidden.{n}": h.contiguous() for n, h in enumerate(hidden)})
            for a, b in zip(hidden, exact(ids)[1]):
                noise = max(noise, relative(a, b))
    if noise > TOLERANCE / 4:
        return f"noise {noise:.1e}"
    if margin < 2e-4:
        return f"router margin {margin:.1e}"
    if sum(g < 2e-4 for g in gaps) > 1:
        return "too many close steps"
    reference, ids = tensors["case1.logits"], tensors["case1.ids"].long()
    wrong = {w: relative(forward.Model(c, p, wrong=w)(ids)[0], reference) for w in forward.WRONG}
    unseen = [w for w, e in wrong.items() if e < 10 * TOLERANCE]
    rounding = {}
    for kind in ("bf16", "int8"):
        a = forward.Model(c, p, torch.float32, rounding=kind)(ids)[0]
        rounding[kind] = ((a - reference).abs().amax(-1).median() / reference.abs().max()).item()
    save_file(tensors, os.path.join(directory, "reference.safetensors"))
    checkpoint.write_json(os.path.join(directory, "reference.json"), {
        "what": "gpt-oss", "layout": s.layout, "seed": seed, "cases": len(LENGTHS), "case_lengths": list(LENGTHS),
        "new_tokens": NEW,
        "oracle": f"transformers {transformers.__version__}, torch {torch.__version__}, float32 eager",
        "noise_f32_vs_f64": noise, "smallest_router_margin": margin, "smallest_gap": min(gaps),
        "rounding_error_bf16_inputs_median": rounding["bf16"],
        "rounding_error_int8_inputs_median": rounding["int8"],
        "wrong_programs_relative_error": {w: e for w, e in wrong.items() if w not in unseen},
        "wrong_programs_not_visible_here": unseen})
    checkpoint.make_readable(directory)
    return None


def folder_bytes(directory):
    return sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--only")
    ap.add_argument("--search", type=int, default=0, help="seeds to try until one will do")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    seen, failed = set(), False
    for s in MODELS:
        if args.only and args.only != s.name:
            continue
        directory = os.path.join(args.out, s.name)
        for seed in range(s.seed, s.seed + max(args.search, 1)):
            problem = build(s, seed, directory)
            print(f"{s.name} seed {seed}: {problem or 'written'}", flush=True)
            if not problem:
                break
        else:
            failed = True
            continue
        with open(os.path.join(directory, "reference.json")) as f:
            r = json.load(f)
        seen |= set(r["wrong_programs_relative_error"])
        print(f"  {folder_bytes(directory)} bytes, noise {r['noise_f32_vs_f64']:.1e}, router margin "
              f"{r['smallest_router_margin']:.1e}, smallest gap {r['smallest_gap']:.1e}, rounding bf16 "
              f"{r['rounding_error_bf16_inputs_median']:.1e} int8 {r['rounding_error_int8_inputs_median']:.1e}; "
              f"not visible: {' '.join(r['wrong_programs_not_visible_here']) or 'none'}; least visible: "
              + " ".join(f"{w} {e:.1e}" for w, e in sorted(r['wrong_programs_relative_error'].items(),
                                                          key=lambda x: x[1])[:4]))
    missing = set(forward.WRONG) - seen
    if not args.only and missing:
        print("no model shows:", *sorted(missing))
        failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
