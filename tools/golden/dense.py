#!/usr/bin/env python3
"""Writes tiny random checkpoints of the dense architectures, and what transformers answers in float32.

    tools/golden/dense.py --out tests/data/models            all of them, from fixed seeds
    tools/golden/dense.py --out D --only qwen3               one

The reference files are those of tests/data/README.md without hidden states. There is no second implementation here:
the float64 run that gives the noise is transformers' own.
"""
import argparse
import os

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # see tools/README.md
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import save_file
from transformers import (GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, NanoChatConfig,
                          NanoChatForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

from checkpoint import make_readable, write_json
import native
from gpt_oss import NEW, relative

LENGTHS = (5, 40, 90)

COMMON = dict(hidden_size=72, num_hidden_layers=2, num_attention_heads=6, intermediate_size=104, vocab_size=131,
              max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
MODELS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**COMMON, num_key_value_heads=2, tie_word_embeddings=False)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**COMMON, num_key_value_heads=1, head_dim=24, tie_word_embeddings=True)),
    "llama3": (LlamaForCausalLM, LlamaConfig(**COMMON, num_key_value_heads=3, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32))),
    "gpt-neox-parallel": (GPTNeoXForCausalLM, GPTNeoXConfig(**COMMON, hidden_act="gelu_fast", use_parallel_residual=True, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5))),
    "gpt-neox-sequential": (GPTNeoXForCausalLM, GPTNeoXConfig(**COMMON, hidden_act="gelu", use_parallel_residual=False, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0))),
    "nanochat-hf": (NanoChatForCausalLM, NanoChatConfig(**COMMON, num_key_value_heads=6)),
    "qwen3-bin": (Qwen3ForCausalLM, Qwen3Config(**COMMON, num_key_value_heads=2, head_dim=12, tie_word_embeddings=True)),
}


def run_transformers(model, ids):
    with torch.no_grad():
        return model(torch.as_tensor(ids)[None], use_cache=False).logits[0]


def greedy(model, ids):
    new, gaps = [], []
    for _ in range(NEW):
        last = run_transformers(model, ids + new)[-1]
        top = last.topk(2)
        new.append(int(top.indices[0]))
        gaps.append(float((top.values[0] - top.values[1]) / last.abs().max()))
    return new, gaps


def randomise(model, seed):
    """Weights wide enough that every part of the block shows in the logits; norms near one, biases small."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            p.copy_(1 + 0.2 * noise if p.dim() == 1 and "norm" in name and name.endswith("weight")
                    else 0.1 * noise if p.dim() == 1 else noise * (1.6 / p.shape[1] ** 0.5))


def rounding(model, ids, kind):
    """Median over positions of what rounding the inputs of all products but attention's does."""
    def hook(_, args):
        x = args[0]
        if kind == "bf16":
            return (x.to(torch.bfloat16).float(),) + args[1:]
        pad = -x.shape[-1] % 32
        y = torch.nn.functional.pad(x, (0, pad)).unflatten(-1, (-1, 32))
        s = y.abs().amax(-1, keepdim=True) / 127
        y = torch.where(s > 0, (y / s).round() * s, y).flatten(-2)
        return (y[..., :x.shape[-1]],) + args[1:]
    exact = run_transformers(model, ids)
    hooks = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    rounded = run_transformers(model, ids)
    for h in hooks:
        h.remove()
    return float(((rounded - exact).abs().amax(-1) / exact.abs().max()).median())


def build(name, seed, directory):
    cls, config = MODELS[name]
    dtype = torch.float16 if "neox-parallel" in name else torch.float32 if "neox" in name else torch.bfloat16
    config.dtype = dtype
    model = cls(config).eval()
    randomise(model, seed)
    model.to(dtype).save_pretrained(directory)
    make_readable(directory)
    exact = cls.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    double = cls.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()
    if name.endswith("-bin"):
        native.save_bin(directory)
    answer(name, seed, directory, exact, double, config.vocab_size, "transformers " + transformers.__version__)


def build_native(name, seed, directory):
    exact = native.Native(native.CONFIG).eval()
    randomise(exact, seed)
    wte = exact.transformer["wte"].weight
    wte.data = wte.data.bfloat16().float()
    apart = native.check(exact, torch.arange(100) % native.CONFIG["vocab_size"])
    if not apart < 1e-5:
        raise SystemExit(f"{name}: {apart:.1e} from transformers' NanoChat")
    native.save(exact, directory, 120)
    double = native.Native(native.CONFIG).double().eval()
    double.load_state_dict(exact.state_dict())
    answer(name, seed, directory, exact, double, native.CONFIG["vocab_size"],
           "tools/golden/native.py (without rounded tables %.0e from transformers %s)" % (apart, transformers.__version__))
    write_earlier(directory)


def write_earlier(directory):
    """What an earlier step leaves: it must not be chosen."""
    with open(os.path.join(directory, "model_000090.pt"), "wb") as f:
        f.write(b"an earlier step, not to be read\n")
    write_json(os.path.join(directory, "meta_000090.json"), {"step": 90})


def answer(name, seed, directory, exact, double, vocabulary, oracle):
    reference, noise = {}, 0.0
    g = torch.Generator().manual_seed(seed + 1)
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(3, vocabulary, (length,), generator=g)
        ids[0], ids[-1] = vocabulary - 1, 0
        logits = run_transformers(exact, ids)
        noise = max(noise, relative(logits, run_transformers(double, ids)))
        new, gap = greedy(exact, ids.tolist())
        reference |= {f"case{i}.ids": ids.int(), f"case{i}.logits": logits.float().contiguous(),
                      f"case{i}.greedy": torch.as_tensor(new).int(), f"case{i}.gap": torch.as_tensor(gap).float()}
    ids = reference["case1.ids"].long()
    save_file(reference, os.path.join(directory, "reference.safetensors"))
    write_json(os.path.join(directory, "reference.json"), {
        "oracle": f"{oracle}, torch {torch.__version__}, float32 eager",
        "noise_f32_vs_f64": noise, "case_lengths": list(LENGTHS), "new_tokens": NEW,
        "rounding_error_bf16_inputs_median": rounding(exact, ids, "bf16"),
        "rounding_error_int8_inputs_median": rounding(exact, ids, "int8")})
    make_readable(directory)
    print(name, "noise %.1e" % noise, sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory)), "bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    for seed, name in enumerate([*MODELS, "nanochat-native"]):
        if arguments.only in name:
            directory = os.path.join(arguments.out, name)
            os.makedirs(directory, exist_ok=True)
            (build if name in MODELS else build_native)(name, 100 + seed, directory)


if __name__ == "__main__":
    main()
