"""gpt-oss checkpoints as arrays: MXFP4, and reading and writing the three published layouts.

The parameters of a model are a dict of float32 tensors under the Hugging Face names, experts
dequantised and input-first as transformers holds them: `experts.gate_up_proj` (E, D, 2F) with gate
and up interleaved, `experts.down_proj` (E, F, D). Letters: V vocabulary, D hidden, F intermediate,
E experts, H heads, HK key/value heads, K head dimension, L layers.
"""
import json
import os

import torch
from safetensors.torch import load_file, save_file

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=torch.float64)


def mxfp4_encode(w):
    """w (..., n) -> blocks U8 (..., n / 32, 16), scales U8 (..., n / 32); the low nibble is first.

    The scale is OCP's: 2^(floor(log2(max)) - 2), stored with a bias of 127. Values go to the nearest
    code, ties to the even one, and saturate at 6."""
    b = w.double().reshape(*w.shape[:-1], -1, 32)
    largest = b.abs().amax(-1)
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 3, 0).clamp(-127, 127)
    distance = (torch.ldexp(b.abs(), -exponent[..., None])[..., None] - FP4).abs()
    nearest = distance == distance.amin(-1, keepdim=True)
    even = nearest & (torch.arange(8) % 2 == 0)
    code = torch.where(even.any(-1), even.int().argmax(-1), nearest.int().argmax(-1)) + 8 * (b < 0)
    return (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8), (exponent + 127).to(torch.uint8)


def mxfp4_decode(blocks, scales):
    """(..., n / 32, 16), (..., n / 32) -> float32 (..., n), exactly."""
    if (scales == 255).any():
        raise ValueError("a scale of 255 is NaN")
    code = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
    value = FP4[code & 7] * torch.where(code > 7, -1.0, 1.0)
    return torch.ldexp(value, scales[..., None].int() - 127).flatten(-2).float()


# ---------------------------------------------------------------- reading

def read_config(directory):
    """config.json of any of the three layouts, in the words of transformers 5."""
    with open(os.path.join(directory, "config.json")) as f:
        c = json.load(f)
    original = "num_experts" in c
    if original:  # OpenAI's own keys
        c = {**c, "num_local_experts": c["num_experts"], "num_experts_per_tok": c["experts_per_token"],
             "rope_scaling": {"rope_type": "yarn", "factor": c["rope_scaling_factor"],
                              "beta_slow": c["rope_ntk_alpha"], "beta_fast": c["rope_ntk_beta"],
                              "original_max_position_embeddings": c["initial_context_length"],
                              "truncate": False}}
    eos = c.get("eos_token_id")
    rope = dict(c.get("rope_parameters") or c.get("rope_scaling") or {"rope_type": "default"})
    rope.setdefault("rope_theta", c.get("rope_theta", 150000.0))
    return {"layers": c["num_hidden_layers"], "experts": c["num_local_experts"],
            "active": c["num_experts_per_tok"], "vocabulary": c["vocab_size"], "hidden": c["hidden_size"],
            "intermediate": c["intermediate_size"], "head": c["head_dim"],
            "heads": c["num_attention_heads"], "kv_heads": c["num_key_value_heads"],
            "window": c["sliding_window"], "limit": c.get("swiglu_limit", 7.0),
            "epsilon": c.get("rms_norm_eps", 1e-5), "rope": rope, "original": original,
            "eos": eos if isinstance(eos, list) else [] if eos is None else [eos],
            "sliding": [t == "sliding_attention" for t in c["layer_types"]] if "layer_types" in c
            else [i % 2 == 0 for i in range(c["num_hidden_layers"])]}


# Hugging Face name of a layer's part: OpenAI's name. q, k and v are one matrix there.
ORIGINAL = {"input_layernorm.weight": "attn.norm.scale", "self_attn.sinks": "attn.sinks",
            "self_attn.o_proj.weight": "attn.out.weight", "self_attn.o_proj.bias": "attn.out.bias",
            "post_attention_layernorm.weight": "mlp.norm.scale", "mlp.router.weight": "mlp.gate.weight",
            "mlp.router.bias": "mlp.gate.bias", "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
            "mlp.experts.down_proj_bias": "mlp.mlp2_bias"}
ORIGINAL_EXPERTS = {"mlp.experts.gate_up_proj": "mlp.mlp1_weight", "mlp.experts.down_proj": "mlp.mlp2_weight"}
ORIGINAL_OUTER = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "norm.scale",
                  "lm_head.weight": "unembedding.weight"}


def read_parameters(directory):
    tensors = {}
    for file in sorted(os.listdir(directory)):
        if file.startswith("model") and file.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(directory, file)))
    c = read_config(directory)
    out = {}
    if c["original"]:
        q, k = c["heads"] * c["head"], c["kv_heads"] * c["head"]
        for name, theirs in ORIGINAL_OUTER.items():
            out[name] = tensors[theirs].float()
        for i in range(c["layers"]):
            ours, theirs = f"model.layers.{i}.", f"block.{i}."
            for a, b in ORIGINAL.items():
                out[ours + a] = tensors[theirs + b].float()
            for part in ("weight", "bias"):
                rows = tensors[f"{theirs}attn.qkv.{part}"].float().split((q, k, k))
                for letter, value in zip("qkv", rows):
                    out[f"{ours}self_attn.{letter}_proj.{part}"] = value
            for a, b in ORIGINAL_EXPERTS.items():
                w = mxfp4_decode(tensors[theirs + b + ".blocks"], tensors[theirs + b + ".scales"])
                out[ours + a] = w.transpose(1, 2)
        return out
    for name, value in tensors.items():
        if name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            out[stem] = mxfp4_decode(value, tensors[stem + "_scales"]).transpose(1, 2)
        elif not name.endswith("_scales"):
            out[name] = value.float()
    return out


# ---------------------------------------------------------------- writing

def is_expert(name):
    return name.endswith(("experts.gate_up_proj", "experts.down_proj"))


def tensors_hf(p):
    out = {}
    for name, w in p.items():
        if is_expert(name):
            out[name + "_blocks"], out[name + "_scales"] = mxfp4_encode(w.transpose(1, 2))
        else:
            out[name] = w.to(torch.bfloat16)
    return out


def tensors_bf16(p):
    return {name: w.to(torch.bfloat16) for name, w in p.items()}


def tensors_original(p, layers):
    out = {theirs: p[ours].to(torch.bfloat16) for ours, theirs in ORIGINAL_OUTER.items()}
    for i in range(layers):
        ours, theirs = f"model.layers.{i}.", f"block.{i}."
        for a, b in ORIGINAL.items():
            out[theirs + b] = p[ours + a].to(torch.bfloat16)
        for part in ("weight", "bias"):
            out[f"{theirs}attn.qkv.{part}"] = torch.cat(
                [p[f"{ours}self_attn.{c}_proj.{part}"] for c in "qkv"]).to(torch.bfloat16)
        for a, b in ORIGINAL_EXPERTS.items():
            blocks, scales = mxfp4_encode(p[ours + a].transpose(1, 2))
            out[theirs + b + ".blocks"], out[theirs + b + ".scales"] = blocks, scales
    return out


def write(directory, tensors, config, generation, shards=1):
    os.makedirs(directory, exist_ok=True)
    tensors = {name: w.contiguous() for name, w in tensors.items()}
    if shards == 1:
        save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    else:
        # Round robin: neighbours in one layer lie in different files.
        names, where = sorted(tensors), {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = {n: tensors[n] for n in names[i::shards]}
            where.update({n: file for n in part})
            save_file(part, os.path.join(directory, file), metadata={"format": "pt"})
        total = sum(w.numel() * w.element_size() for w in tensors.values())
        write_json(os.path.join(directory, "model.safetensors.index.json"),
                   {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})
    write_json(os.path.join(directory, "config.json"), config)
    if generation:
        write_json(os.path.join(directory, "generation_config.json"), generation)
    make_readable(directory)


def make_readable(directory):
    """safetensors writes files that only their owner may read."""
    for file in os.listdir(directory):
        os.chmod(os.path.join(directory, file), 0o644)


def write_json(path, value):
    with open(path, "w") as f:
        f.write(json.dumps(value, indent=2) + "\n")
