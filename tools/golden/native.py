"""nanochat's own model in plain PyTorch, written from its description, and the files that its training leaves.

It differs from transformers' NanoChat in the names, in the tables of RoPE, which are kept in bfloat16, and in the rows
beyond the vocabulary. Without the rounding both must answer alike: check() demands it.
"""
import json
import os
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from transformers import NanoChatConfig, NanoChatForCausalLM

EPSILON = 1.1920929e-07  # of float32
CONFIG = {"sequence_len": 256, "vocab_size": 131, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 40}
NAMES = {"attn.c_q": "self_attn.q_proj", "attn.c_k": "self_attn.k_proj", "attn.c_v": "self_attn.v_proj",
         "attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def norm(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


class Layer(nn.Module):
    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.head = heads, kv_heads, width // heads
        line = lambda n, m: nn.Linear(n, m, bias=False)
        self.attn = nn.ModuleDict({"c_q": line(width, heads * self.head), "c_k": line(width, kv_heads * self.head),
                                   "c_v": line(width, kv_heads * self.head), "c_proj": line(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": line(width, 4 * width), "c_proj": line(4 * width, width)})

    def forward(self, x, cos, sin):
        n, half = norm(x), self.head // 2

        def turned(y):  # by minus the angle, and the norm after it
            a, b = y[..., :half], y[..., half:]
            return norm(torch.cat((a * cos + b * sin, b * cos - a * sin), -1))
        q = turned(self.attn["c_q"](n).unflatten(-1, (self.heads, -1)).transpose(0, 1))
        k = turned(self.attn["c_k"](n).unflatten(-1, (self.kv_heads, -1)).transpose(0, 1))
        v = self.attn["c_v"](n).unflatten(-1, (self.kv_heads, -1)).transpose(0, 1)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 0) for t in (k, v))
        score = q @ k.transpose(1, 2) / self.head ** 0.5
        score = score.masked_fill(torch.ones(score.shape[1:]).triu(1).bool(), float("-inf")).softmax(-1)
        x = x + self.attn["c_proj"]((score @ v).transpose(0, 1).flatten(1))
        return x + self.mlp["c_proj"](F.relu(self.mlp["c_fc"](norm(x))).square())


class Native(nn.Module):
    def __init__(self, config, rounded=True):
        super().__init__()
        self.config, self.rounded = config, rounded
        rows, width = -(-config["vocab_size"] // 64) * 64, config["n_embd"]
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(rows, width),
            "h": nn.ModuleList(Layer(width, config["n_head"], config["n_kv_head"]) for _ in range(config["n_layer"]))})
        self.lm_head = nn.Linear(width, rows, bias=False)

    def forward(self, ids, use_cache=False):
        head = self.config["n_embd"] // self.config["n_head"]
        frequency = 1.0 / (10000.0 ** (torch.arange(0, head, 2, dtype=torch.float32) / head))
        angle = torch.outer(torch.arange(ids.shape[1], dtype=torch.float32), frequency)
        cos, sin = angle.cos(), angle.sin()
        if self.rounded:
            cos, sin = cos.bfloat16(), sin.bfloat16()
        x = self.transformer["wte"](ids[0])
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        x = norm(x)
        for layer in self.transformer["h"]:
            x = layer(x, cos, sin)
        logits = self.lm_head(norm(x))[:, :self.config["vocab_size"]]
        return SimpleNamespace(logits=(15 * torch.tanh(logits / 15))[None])


def check(model, ids):
    """The largest difference from transformers' NanoChat when neither rounds its tables."""
    c = model.config
    theirs = NanoChatForCausalLM(NanoChatConfig(
        hidden_size=c["n_embd"], intermediate_size=4 * c["n_embd"], num_hidden_layers=c["n_layer"], vocab_size=c["vocab_size"],
        num_attention_heads=c["n_head"], num_key_value_heads=c["n_kv_head"], max_position_embeddings=c["sequence_len"],
        rms_norm_eps=EPSILON, attn_implementation="eager")).eval()
    ours, state = model.state_dict(), {}
    state["model.embed_tokens.weight"] = ours["transformer.wte.weight"][:c["vocab_size"]]
    state["lm_head.weight"] = ours["lm_head.weight"][:c["vocab_size"]]
    for i in range(c["n_layer"]):
        for name, other in NAMES.items():
            state[f"model.layers.{i}.{other}.weight"] = ours[f"transformer.h.{i}.{name}.weight"]
    theirs.load_state_dict(state)
    model.rounded = False
    with torch.no_grad():
        a, b = model(ids[None]).logits[0], theirs(ids[None], use_cache=False).logits[0]
    model.rounded = True
    return float((a - b).abs().max() / b.abs().max())


def save(model, directory, step):
    """As its trainer does, compiled: embedding in bfloat16, the rest in float32. Two of an earlier step lie beside it."""
    state = {"_orig_mod." + k: v.detach().clone() for k, v in model.state_dict().items()}
    name = "_orig_mod.transformer.wte.weight"
    state[name] = state[name].bfloat16()
    torch.save(state, os.path.join(directory, f"model_{step:06d}.pt"))
    with open(os.path.join(directory, f"meta_{step:06d}.json"), "w") as f:
        f.write(json.dumps({"step": step, "val_bpb": 0.9, "model_config": model.config, "user_config": {"depth": 2}}, indent=2) + "\n")


def save_bin(directory, shards=2):
    """Turns model.safetensors into pytorch_model-*.bin, with what PyTorch's files may hold and safetensors may not: views of
    one storage (q, k, v of a layer), a tied pair, a transposed view, a parameter."""
    from safetensors.torch import load_file
    path = os.path.join(directory, "model.safetensors")
    state = load_file(path)
    os.remove(path)
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    for name in [n for n in state if n.endswith("q_proj.weight")]:
        names = [name.replace("q_proj", f"{c}_proj") for c in "qkv"]
        rows = [state[n].shape[0] for n in names]
        stacked = torch.cat([state[n] for n in names])
        state.update(zip(names, stacked.split(rows)))
    for name in [n for n in state if n.endswith("down_proj.weight")]:
        state[name] = state[name].t().contiguous().t()
    state["model.norm.weight"] = nn.Parameter(state["model.norm.weight"])
    tied = ("model.embed_tokens.weight", "lm_head.weight")
    layers = [n for n in state if n not in tied]
    parts, where = [list(tied) + layers[:len(layers) // 2], layers[len(layers) // 2:]], {}
    for i, part in enumerate(parts):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        torch.save({n: state[n] for n in part}, os.path.join(directory, file))
        where.update({n: file for n in part})
    total = sum(w.numel() * w.element_size() for w in state.values())
    with open(os.path.join(directory, "pytorch_model.bin.index.json"), "w") as f:
        f.write(json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}, indent=2) + "\n")
