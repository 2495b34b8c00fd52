#!/usr/bin/env python3
"""Trains the demo model: a small gpt-oss checkpoint in the published Hugging Face layout.

    tools/demo_model.py --text stories.txt:0.85 --text books.txt:0.15 \\
                        --valid stories_valid.txt --valid books_valid.txt --out demo/model

The texts hold documents separated by a line `<|endoftext|>`; `:0.85` is the share of the batches
that is drawn from that file. The result is config.json, generation_config.json, tokenizer.json and
model.safetensors with MXFP4 experts; it is loaded again by transformers and evaluated before the
program ends.

Everything runs in float32 on the CPU. The forward pass here computes what GptOssForCausalLM
computes (checked at the start and at the end), with the experts grouped by token, which is several
times faster for such a small model. In the last part of the run the experts' weights are rounded to
MXFP4 in the forward pass (straight-through gradients), so that the saved weights are those that
were trained. Matrices are optimised by Muon, the rest by AdamW.

`--steps N` fixes the number of steps (the same text, seed and number of threads then give the same
model); without it the schedule follows the clock and ends after `--minutes`.
"""
import argparse
import json
import math
import os
import time

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # see tools/README.md
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, Mxfp4Config

END, START = "<|endoftext|>", "<|startoftext|>"
# GPT-4's split pattern (cl100k_base).
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# Dimensions: V vocabulary, D hidden, L layers, H heads, HK key/value heads, K head, E experts,
# A active experts, M intermediate, W window. D and M are multiples of 32 (the MXFP4 block).
V, D, L, H, HK, K, E, A, M, W = 1280, 160, 6, 6, 2, 32, 8, 2, 160, 128
T = 256  # training sequence
THETA, FACTOR, ORIGINAL = 150000.0, 4.0, 512


# ---------------------------------------------------------------- text

def documents(path, limit=None):
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read(limit) if limit else f.read()
    return [d.strip("\n") for d in text.split(END) if d.strip()]


def train_tokenizer(paths):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=V, special_tokens=[END, START], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator((d for p in paths for d in documents(p, 6_000_000)), trainer)
    return tok


class Stream:
    """One text as ids; rows of T + 1 ids, half of them from the start of a document."""

    def __init__(self, tok, path, rng, limit=None):
        docs = documents(path, limit)
        end = tok.token_to_id(END)
        ids, starts = [end], []
        for first in range(0, len(docs), 1000):
            for enc in tok.encode_batch(docs[first:first + 1000], add_special_tokens=False):
                starts.append(len(ids))
                ids.extend(enc.ids)
                ids.append(end)
        self.ids = np.asarray(ids, dtype=np.int64)
        self.starts = np.asarray([s for s in starts if s + T + 1 < len(ids)])
        self.bytes = sum(len(d.encode()) for d in docs)
        self.rng = rng

    def row(self):
        if self.rng.random() < 0.5:
            at = int(self.rng.choice(self.starts)) - int(self.rng.integers(2))
        else:
            at = int(self.rng.integers(len(self.ids) - T - 1))
        return self.ids[at:at + T + 1]


# ---------------------------------------------------------------- MXFP4

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4_BETWEEN = (FP4[1:] + FP4[:-1]) / 2


def power_of_two(exponent):
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)


def mxfp4_encode(w):
    """w (..., 32 n), blocks along the last axis: codes U8 (..., n, 32), exponents (..., n).

    The scale is OCP's: 2^(floor(log2(max |w|)) - 2); values to the nearest, those above 6 to 6,
    ties to the even code."""
    b = w.reshape(*w.shape[:-1], -1, 32).contiguous()
    largest = b.abs().amax(-1)
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 3, 0)
    exponent = exponent.clamp(-125, 125)  # whose powers float32 holds both ways
    size = b.abs() * power_of_two(-exponent)[..., None]
    low, high = torch.bucketize(size, FP4_BETWEEN), torch.bucketize(size, FP4_BETWEEN, right=True)
    code = torch.where(low % 2 == 0, low, high)  # equal unless at a midpoint
    return (code + 8 * (b < 0)).to(torch.uint8), exponent


def mxfp4_round(w, axis):
    """w as MXFP4 holds it, blocks along `axis`."""
    w = w.movedim(axis, -1)
    code, exponent = mxfp4_encode(w)
    value = torch.cat((FP4, -FP4))[code.int()] * power_of_two(exponent)[..., None]
    return value.reshape(w.shape).movedim(-1, axis)


# ---------------------------------------------------------------- model

def config():
    return GptOssConfig(
        num_hidden_layers=L, num_local_experts=E, vocab_size=V, hidden_size=D, intermediate_size=M,
        head_dim=K, num_attention_heads=H, num_key_value_heads=HK, sliding_window=W,
        max_position_embeddings=int(ORIGINAL * FACTOR), num_experts_per_tok=A, eos_token_id=0,
        rope_parameters={"rope_type": "yarn", "rope_theta": THETA, "factor": FACTOR, "beta_fast": 32.0,
                         "beta_slow": 1.0, "truncate": False,
                         "original_max_position_embeddings": ORIGINAL})


def parameters(seed):
    """Start values, by Hugging Face names; gate_up here is (E, D, gate | up), not interleaved."""
    g = torch.Generator().manual_seed(seed)
    def normal(*shape, std):
        return torch.randn(*shape, generator=g) * std
    p = {"model.embed_tokens.weight": normal(V, D, std=1.0), "lm_head.weight": normal(V, D, std=0.001),
         "model.norm.weight": torch.ones(D)}
    for i in range(L):
        n = f"model.layers.{i}."
        p[n + "input_layernorm.weight"] = torch.ones(D)
        p[n + "post_attention_layernorm.weight"] = torch.ones(D)
        for name, rows in (("q", H * K), ("k", HK * K), ("v", HK * K)):
            p[n + f"self_attn.{name}_proj.weight"] = normal(rows, D, std=D**-0.5)
            p[n + f"self_attn.{name}_proj.bias"] = torch.zeros(rows)
        p[n + "self_attn.o_proj.weight"] = torch.zeros(D, H * K)
        p[n + "self_attn.o_proj.bias"] = torch.zeros(D)
        p[n + "self_attn.sinks"] = torch.zeros(H)
        p[n + "mlp.router.weight"] = normal(E, D, std=0.02)
        p[n + "mlp.router.bias"] = torch.zeros(E)
        p[n + "mlp.experts.gate_up_proj"] = normal(E, D, 2 * M, std=D**-0.5)
        p[n + "mlp.experts.gate_up_proj_bias"] = torch.zeros(E, 2 * M)
        p[n + "mlp.experts.down_proj"] = normal(E, M, D, std=0.02)
        p[n + "mlp.experts.down_proj_bias"] = torch.zeros(E, D)
    return p


def hf_state(p):
    """The same parameters as GptOssForCausalLM names and orders them (gate and up interleaved)."""
    out = {}
    for name, w in p.items():
        if "gate_up_proj" in name:
            w = torch.stack(w.chunk(2, dim=-1), dim=-1).flatten(-2)
        out[name] = w.detach()
    return out


class Forward:
    """logits(ids) of the parameters `p`; the same function as GptOssForCausalLM."""

    def __init__(self, p, rotary):
        self.p = p
        self.quantised = False
        position = torch.arange(T)[None]
        self.cos, self.sin = (t[0] for t in rotary(torch.zeros(1), position))  # (T, K / 2)
        i = torch.arange(T)
        causal = i[:, None] >= i[None]
        near = i[:, None] - i[None] < W
        self.masks = [F.pad(torch.where(m, 0.0, float("-inf")), (1, 0)) for m in (causal & near, causal)]

    def norm(self, x, name):
        return F.rms_norm(x, (D,), self.p[name + ".weight"], 1e-5)

    def rope(self, x):  # (B, heads, T, K)
        t = x.shape[2]
        a, b = x.chunk(2, -1)
        c, s = self.cos[:t], self.sin[:t]
        return torch.cat((a * c - b * s, b * c + a * s), -1)

    def attention(self, x, n, layer):
        b, t, _ = x.shape
        q, k, v = (F.linear(x, self.p[n + f"{c}_proj.weight"], self.p[n + f"{c}_proj.bias"])
                   .view(b, t, -1, K).transpose(1, 2) for c in "qkv")
        q, k = self.rope(q), self.rope(k)
        k, v = k.repeat_interleave(H // HK, 1), v.repeat_interleave(H // HK, 1)
        # The sink is a key whose score is the parameter and whose value is zero: one more dimension,
        # 1 in every query, 0 in every other key, carries it through the library's tiled attention.
        sink = F.pad(self.p[n + "sinks"][None, :, None, None].expand(b, H, 1, 1), (K, 0))
        q = torch.cat((q * K**-0.5, torch.ones(b, H, t, 1)), -1)
        k = torch.cat((sink, F.pad(k, (0, 1))), 2)
        mask = self.masks[layer % 2][:t, :t + 1]
        y = F.scaled_dot_product_attention(q, k, F.pad(v, (0, 1, 1, 0)), attn_mask=mask, scale=1.0)[..., :K]
        y = y.transpose(1, 2).reshape(b, t, H * K)
        return F.linear(y, self.p[n + "o_proj.weight"], self.p[n + "o_proj.bias"])

    def weight(self, name):
        w = self.p[name]  # (E, in, out): blocks run along the input
        return w + (mxfp4_round(w.detach(), 1) - w.detach()) if self.quantised else w

    def experts(self, x, n):
        p = self.p
        scores = F.linear(x, p[n + "router.weight"], p[n + "router.bias"])
        top, chosen = scores.topk(A, -1)
        share = top.softmax(-1).flatten()
        expert, order = chosen.flatten().sort(stable=True)
        count = torch.bincount(expert, minlength=E).tolist()
        token = order // A
        up, down = self.weight(n + "experts.gate_up_proj"), self.weight(n + "experts.down_proj")
        rows = x.index_select(0, token).split(count)
        gate, lin = torch.cat([torch.addmm(p[n + "experts.gate_up_proj_bias"][e], rows[e], up[e])
                               for e in range(E)]).chunk(2, -1)
        gate, lin = gate.clamp(max=7.0), lin.clamp(-7.0, 7.0)
        rows = ((lin + 1) * gate * torch.sigmoid(1.702 * gate)).split(count)
        y = torch.cat([torch.addmm(p[n + "experts.down_proj_bias"][e], rows[e], down[e]) for e in range(E)])
        out = torch.zeros_like(x).index_add(0, token, y * share[order][:, None])
        # Switch's balance loss: E sum_e (share of the tokens) (mean probability), 1 when balanced.
        used = torch.tensor(count, dtype=x.dtype) / (A * x.shape[0])
        return out, E * (used * scores.softmax(-1).mean(0)).sum()

    def __call__(self, ids):
        x = self.p["model.embed_tokens.weight"][ids]
        balance = 0.0
        for i in range(L):
            n = f"model.layers.{i}."
            x = x + self.attention(self.norm(x, n + "input_layernorm"), n + "self_attn.", i)
            y, extra = self.experts(self.norm(x, n + "post_attention_layernorm").flatten(0, 1), n + "mlp.")
            x, balance = x + y.view_as(x), balance + extra
        return F.linear(self.norm(x, "model.norm"), self.p["lm_head.weight"]), balance / L


def reference(p):
    model = GptOssForCausalLM._from_config(config(), attn_implementation="eager", dtype=torch.float32).eval()
    missing = model.load_state_dict(hf_state(p), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    return model


# ---------------------------------------------------------------- optimiser

def orthogonal(g, steps=5):
    """Muon's Newton-Schulz iteration on a batch of matrices (n, rows, cols)."""
    turn = g.shape[-2] > g.shape[-1]
    x = g.transpose(-2, -1) if turn else g
    x = x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)
    for _ in range(steps):
        a = x @ x.transpose(-2, -1)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.transpose(-2, -1) if turn else x


class Muon:
    def __init__(self, weights, decay):
        self.weights, self.decay = weights, decay
        self.moment = [torch.zeros_like(w) for w in weights]

    @torch.no_grad()
    def step(self, lr, momentum):
        for w, m in zip(self.weights, self.moment):
            m.lerp_(w.grad, 1 - momentum)
            g = w.grad.lerp(m, momentum)
            g = g if g.ndim == 3 else g[None]
            u = orthogonal(g).view_as(w)
            big, small = max(w.shape[-2:]), min(w.shape[-2:])
            w.mul_(1 - lr * self.decay).add_(u, alpha=-lr * math.sqrt(big / small))


# ---------------------------------------------------------------- run

@torch.no_grad()
def evaluate(logits_of, stream, rows):
    """Nats per token and bits per byte over the first rows * T tokens."""
    ids = torch.from_numpy(stream.ids)
    n = min(rows, (len(ids) - 1) // T)
    x, y = ids[:n * T].view(n, T), ids[1:n * T + 1].view(n, T)
    nll = sum(F.cross_entropy(logits_of(x[i:i + 16]).flatten(0, 1).float(), y[i:i + 16].flatten(),
                              reduction="sum").item() for i in range(0, n, 16)) / (n * T)
    return nll, nll / math.log(2) * len(ids) / stream.bytes


def learning_rate(progress, warmup=0.02, floor=0.03):
    if progress < warmup:
        return progress / warmup
    x = (progress - warmup) / (1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x))


def train(args, tok, p, forward):
    rng = np.random.default_rng(args.seed)
    streams, shares = [], []
    for path, share in args.text:
        streams.append(Stream(tok, path, rng, args.limit))
        shares.append(share)
        print(f"text: {streams[-1].bytes} bytes, {len(streams[-1].ids)} tokens, share {share}", flush=True)
    shares = np.asarray(shares) / sum(shares)
    valid = [Stream(tok, path, rng) for path in args.valid]

    for w in p.values():
        w.requires_grad_(True)
    matrices = [w for n, w in p.items() if "self_attn" in n and w.ndim == 2 or "experts" in n and w.ndim == 3]
    others = [{"params": [w for n, w in p.items() if "embed" in n], "rate": 0.06},
              {"params": [w for n, w in p.items() if "lm_head" in n], "rate": 0.006},
              {"params": [w for n, w in p.items() if "router.weight" in n], "rate": 0.003},
              {"params": [w for n, w in p.items() if w.ndim == 1 or n.endswith("proj_bias")], "rate": 0.004}]
    muon = Muon(matrices, decay=args.decay)
    adam = torch.optim.AdamW(others, lr=0.0, betas=(0.85, 0.97), eps=1e-10, weight_decay=0.0)

    begin, step, seen, mean = time.time(), 0, 0, None
    while True:
        progress = step / args.steps if args.steps else (time.time() - begin) / (60 * args.minutes)
        if progress >= 1:
            break
        forward.quantised = progress >= args.quantise_from
        rows = np.stack([streams[rng.choice(len(streams), p=shares)].row() for _ in range(args.batch)])
        ids = torch.from_numpy(rows)
        logits, balance = forward(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        for w in p.values():
            w.grad = None
        (loss + 0.01 * balance).backward()
        rate = learning_rate(progress)
        muon.step(args.rate * rate, momentum=min(0.95, 0.85 + 0.1 * step / 200))
        for group in adam.param_groups:
            group["lr"] = group["rate"] * rate
        adam.step()
        step, seen = step + 1, seen + args.batch * T
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if step % 20 == 0 or step == 1:
            spent = time.time() - begin
            print(f"step {step} progress {progress:.3f} loss {mean:.3f} balance {balance.item():.3f} "
                  f"tok/s {seen / spent:.0f} minutes {spent / 60:.1f} cpu {time.process_time() / 60:.1f}", flush=True)
        if step % 400 == 0:
            print("valid:", *(f"{nll:.3f} nats/token {bits:.3f} bits/byte" for nll, bits in
                              (evaluate(lambda x: forward(x)[0], s, 64) for s in valid)), sep="  ", flush=True)
    return step, (time.time() - begin) / 60


def save(p, tok, out):
    """The checkpoint in the published layout: MXFP4 experts, the rest bfloat16."""
    os.makedirs(out, exist_ok=True)
    tensors = {}
    for name, w in hf_state(p).items():
        if name.endswith(("gate_up_proj", "down_proj")):
            code, exponent = mxfp4_encode(w.transpose(1, 2).contiguous())  # (E, out, in): (E, out, in / 32, 32)
            tensors[name + "_blocks"] = (code[..., 0::2] | code[..., 1::2] << 4).contiguous()
            tensors[name + "_scales"] = (exponent + 127).to(torch.uint8)
        else:
            tensors[name] = w.to(torch.bfloat16).contiguous()
    save_file(tensors, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    # The keys that openai/gpt-oss-20b publishes.
    published = {
        "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
        "eos_token_id": tok.token_to_id(END), "experts_per_token": A, "head_dim": K, "hidden_act": "silu",
        "hidden_size": D, "initial_context_length": ORIGINAL, "initializer_range": 0.02,
        "intermediate_size": M,
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(L)],
        "max_position_embeddings": int(ORIGINAL * FACTOR), "model_type": "gpt_oss",
        "num_attention_heads": H, "num_experts_per_tok": A, "num_hidden_layers": L,
        "num_key_value_heads": HK, "num_local_experts": E, "output_router_logits": False,
        "pad_token_id": tok.token_to_id(END),
        "quantization_config": {"modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": FACTOR,
                         "original_max_position_embeddings": ORIGINAL, "rope_type": "yarn", "truncate": False},
        "rope_theta": THETA, "router_aux_loss_coef": 0.01, "sliding_window": W, "swiglu_limit": 7.0,
        "tie_word_embeddings": False, "transformers_version": "4.55.0", "use_cache": True, "vocab_size": V}
    for file, value in (("config.json", published),
                        ("generation_config.json", {"bos_token_id": tok.token_to_id(START), "do_sample": True,
                                                    "eos_token_id": [tok.token_to_id(END)],
                                                    "pad_token_id": tok.token_to_id(END),
                                                    "transformers_version": "4.55.0"})):
        with open(os.path.join(out, file), "w") as f:
            f.write(json.dumps(value, indent=2) + "\n")
    tok.save(os.path.join(out, "tokenizer.json"), pretty=False)
    for file in os.listdir(out):
        os.chmod(os.path.join(out, file), 0o644)  # safetensors makes files for their owner alone


def check(args, tok, p, forward):
    """What was written, as transformers reads it: equal logits, losses, samples."""
    for name in p:
        if not name.endswith(("gate_up_proj", "down_proj")):
            p[name] = p[name].to(torch.bfloat16).float()
    model = AutoModelForCausalLM.from_pretrained(
        args.out, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32,
        attn_implementation="eager").eval()
    rng = np.random.default_rng(0)
    streams = [Stream(tok, path, rng) for path in args.valid]
    if streams:
        with torch.no_grad():
            ids = torch.from_numpy(streams[0].ids[:T])[None]
            forward.quantised = True
            a, b = model(ids).logits, forward(ids)[0]
            worst = (a - b).abs().max() / a.abs().max()
            print(f"saved, in transformers, against trained: {worst:.1e} of the largest logit")
            assert worst < 1e-4
        for path, s in zip(args.valid, streams):
            nll, bits = evaluate(lambda x: model(x).logits, s, 200)
            print(f"{os.path.basename(path)}: {nll:.3f} nats/token, {bits:.3f} bits/byte")
    torch.manual_seed(args.seed)
    for prompt in ("Once upon a time", "The old man looked at the sea and", "Lily and her dog"):
        ids = torch.tensor([tok.encode(prompt).ids])
        out = model.generate(ids, max_new_tokens=120, do_sample=True, temperature=0.8, top_p=0.95, top_k=0)
        print("---", tok.decode(out[0].tolist()), sep="\n")
    size = sum(os.path.getsize(os.path.join(args.out, f)) for f in os.listdir(args.out))
    print(f"{size} bytes in {args.out}")
    assert size < 4_000_000


def text_argument(value):
    path, _, share = value.rpartition(":")
    return (path, float(share)) if path else (value, 1.0)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--text", type=text_argument, action="append", required=True, metavar="PATH[:SHARE]")
    ap.add_argument("--valid", action="append", default=[], metavar="PATH")
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=29)
    ap.add_argument("--steps", type=int, default=0)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--rate", type=float, default=0.02)
    ap.add_argument("--decay", type=float, default=0.02)
    ap.add_argument("--quantise-from", type=float, default=0.6)
    ap.add_argument("--limit", type=int, help="characters to read of each text")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tok = train_tokenizer([path for path, _ in args.text])
    p = parameters(args.seed)
    for name in p:  # the check below must see every parameter
        p[name] += 0.02 * torch.randn(p[name].shape)
    model = reference(p)
    forward = Forward(p, model.model.rotary_emb)
    with torch.no_grad():
        ids = torch.randint(V, (2, T))
        a, b = model(ids).logits, forward(ids)[0]
        worst = (a - b).abs().max() / a.abs().max()
        print(f"training forward against GptOssForCausalLM: {worst:.1e}", flush=True)
        assert worst < 1e-4
    p.update(parameters(args.seed))
    steps, minutes = train(args, tok, p, forward)
    print(f"trained {steps} steps, {steps * args.batch * T} tokens, {minutes:.1f} minutes")
    with torch.no_grad():
        save(p, tok, args.out)
        check(args, tok, p, forward)


if __name__ == "__main__":
    main()
