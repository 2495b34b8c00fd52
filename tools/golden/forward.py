"""gpt-oss's forward pass, written from its description and independent of transformers.

The second opinion of the oracle: transformers and this must agree before a reference is written.
It runs in any float type (float64 measures the reference's own noise), can round the inputs of
products as the arithmetic classes bf16 and int8 do, and can be wrong on purpose, to prove that the
reference would notice.

    x = embedding[id]
    for each layer:
      q, k, v = W norm(x) + b, K dimensions per head; q, k = rope(q), rope(k), halves rotated together
      score[t, s] = q[t] k[s] / sqrt(K) for s <= t (and s > t - window in sliding layers);
      softmax over the scores and one sink per head, whose share is dropped
      x += W_o y + b_o
      router = W_r norm(x) + b_r; the largest `active` experts, softmax over these alone
      expert: gate, up = the even and odd entries of W1 h + b1; gate = min(gate, limit),
      up = clamp(up, -limit, limit); W2 (gate sigmoid(1.702 gate) (up + 1)) + b2
    logits = W_head norm(x)

rope, YaRN: inverse frequency f[i] = theta^(-2i/K); those that turn fewer than beta_slow times in the
original context are divided by `factor`, those above beta_fast are kept, linear in between; cos and
sin are multiplied by 0.1 ln(factor) + 1.
"""
import math

import torch

# Each changes one thing that a program can get wrong.
WRONG = ("no_sinks", "sink_kept_as_zero", "no_window", "window_one_longer", "no_yarn", "no_yarn_scale",
         "rope_pairs", "rope_backwards", "no_biases", "no_router_bias", "softmax_before_top_k", "no_clamp",
         "gate_clamped_below", "no_up_plus_one", "alpha_1", "gate_up_stacked", "gate_up_swapped",
         "kv_heads_interleaved", "no_norm_weight", "rows_of_o_proj_reversed", "last_expert_unused",
         "nibbles_swapped", "yarn_truncate_otherwise", "always_theta_150000", "always_limit_7",
         "always_even_layers_slide")


def rope_table(c, positions, dtype, wrong=()):
    """cos, sin (T, K / 2)."""
    r, k = c["rope"], c["head"]
    theta = 150000.0 if "always_theta_150000" in wrong else r["rope_theta"]
    f = theta ** (-torch.arange(0, k, 2, dtype=torch.float64) / k)
    scale = 1.0
    if r.get("rope_type", r.get("type")) == "yarn" and "no_yarn" not in wrong:
        def dimension(turns):  # the (fractional) index of the frequency that turns so often
            return k * math.log(r["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (
                2 * math.log(theta))
        low, high = dimension(r.get("beta_fast", 32.0)), dimension(r.get("beta_slow", 1.0))
        if r.get("truncate", True) != ("yarn_truncate_otherwise" in wrong):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, k - 1)
        ramp = ((torch.arange(k // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
        f = f * (1 - ramp) + f / r["factor"] * ramp
        if "no_yarn_scale" not in wrong:
            scale = 0.1 * math.log(r["factor"]) + 1.0
    angle = positions.double()[:, None] * f
    if "rope_backwards" in wrong:
        angle = -angle
    return (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)


def rope(x, cos, sin, wrong):  # x (heads, T, K)
    if "rope_pairs" in wrong:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def round_inputs(x, rounding):
    """What an arithmetic class does to the input of a product, along the last axis."""
    if rounding == "bf16":
        return x.to(torch.bfloat16).to(x.dtype)
    if rounding == "int8":  # groups of 32, scale max / 127, nearest
        n = x.shape[-1]
        g = torch.nn.functional.pad(x, (0, -n % 32)).unflatten(-1, (-1, 32))
        scale = g.abs().amax(-1, keepdim=True) / 127
        g = torch.where(scale > 0, (g / scale).round() * scale, 0)
        return g.flatten(-2)[..., :n]
    return x


class Model:
    def __init__(self, config, parameters, dtype=torch.float64, wrong=(), rounding=None):
        self.c, self.dtype, self.rounding = config, dtype, rounding
        self.wrong = {wrong} if isinstance(wrong, str) else set(wrong)
        self.p = {name: w.to(dtype) for name, w in parameters.items()}
        self.margin = math.inf  # smallest distance between the last expert taken and the first left out

    def norm(self, x, name):
        y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.c["epsilon"])
        return y if "no_norm_weight" in self.wrong else y * self.p[name + ".weight"]

    def linear(self, x, name):
        y = round_inputs(x, self.rounding) @ self.p[name + ".weight"].T
        return y if "no_biases" in self.wrong else y + self.p[name + ".bias"]

    def attention(self, x, n, sliding):
        c, wrong, t = self.c, self.wrong, x.shape[0]
        q, k, v = (self.linear(x, n + f"{i}_proj").unflatten(-1, (-1, c["head"])).transpose(0, 1) for i in "qkv")
        cos, sin = rope_table(c, torch.arange(t), self.dtype, wrong)
        q, k = rope(q, cos, sin, wrong), rope(k, cos, sin, wrong)
        group = c["heads"] // c["kv_heads"]
        of = torch.arange(c["heads"])
        of = of % c["kv_heads"] if "kv_heads_interleaved" in wrong else of // group
        score = q @ k[of].transpose(1, 2) / math.sqrt(c["head"])
        at = torch.arange(t)
        back = at[:, None] - at[None]
        seen = back >= 0
        if sliding and "no_window" not in wrong:
            seen &= back < c["window"] + ("window_one_longer" in wrong)
        score = score.masked_fill(~seen, -math.inf)
        sink = self.p[n + "sinks"]
        if "sink_kept_as_zero" in wrong:
            sink = torch.zeros_like(sink)
        total = torch.logsumexp(score, -1)
        if "no_sinks" not in wrong:
            total = torch.logaddexp(total, sink[:, None])
        y = (score - total[..., None]).exp() @ v[of]
        y = y.transpose(0, 1).flatten(1)
        if "rows_of_o_proj_reversed" in wrong:
            y = y.flip(-1)
        return self.linear(y, n + "o_proj")

    def route(self, x, n):
        """Shares (T, E), zero for those not chosen."""
        c = self.c
        score = x @ self.p[n + "router.weight"].T
        if "no_router_bias" not in self.wrong:
            score = score + self.p[n + "router.bias"]
        ordered = score.sort(-1, descending=True).values
        if c["active"] < c["experts"]:
            self.margin = min(self.margin, (ordered[:, c["active"] - 1] - ordered[:, c["active"]]).min().item())
        # top-k by index, not by threshold: equal scores must not add an expert
        index = score.topk(c["active"], -1).indices
        chosen = torch.zeros_like(score, dtype=torch.bool).scatter(-1, index, True)
        if "softmax_before_top_k" in self.wrong:
            return torch.where(chosen, score.softmax(-1), 0)
        return score.masked_fill(~chosen, -math.inf).softmax(-1)

    def experts(self, x, n):
        c, p, wrong = self.c, self.p, self.wrong
        share = self.route(x, n)
        if "last_expert_unused" in wrong:
            share[:, -1] = 0
        out = torch.zeros_like(x)
        for e in range(c["experts"]):
            w1, w2 = p[n + "experts.gate_up_proj"][e], p[n + "experts.down_proj"][e]
            if "nibbles_swapped" in wrong:
                w1 = w1.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            h = round_inputs(x, self.rounding) @ w1
            if "no_biases" not in wrong:
                h = h + p[n + "experts.gate_up_proj_bias"][e]
            gate, up = h.chunk(2, -1) if "gate_up_stacked" in wrong else (h[:, 0::2], h[:, 1::2])
            if "gate_up_swapped" in wrong:
                gate, up = up, gate
            if "no_clamp" not in wrong:
                limit = 7.0 if "always_limit_7" in wrong else c["limit"]
                gate = gate.clamp(-limit if "gate_clamped_below" in wrong else None, limit)
                up = up.clamp(-limit, limit)
            y = gate * torch.sigmoid((1.0 if "alpha_1" in wrong else 1.702) * gate)
            y = y * (up if "no_up_plus_one" in wrong else up + 1)
            y = round_inputs(y, self.rounding) @ w2
            if "no_biases" not in wrong:
                y = y + p[n + "experts.down_proj_bias"][e]
            out = out + share[:, e:e + 1] * y
        return out

    @torch.no_grad()
    def __call__(self, ids):
        """ids (T): logits (T, V), and the residual stream before the first and after each layer."""
        x = self.p["model.embed_tokens.weight"][torch.as_tensor(ids)]
        hidden = [x]
        for i in range(self.c["layers"]):
            n = f"model.layers.{i}."
            sliding = i % 2 == 0 if "always_even_layers_slide" in self.wrong else self.c["sliding"][i]
            x = x + self.attention(self.norm(x, n + "input_layernorm"), n + "self_attn.", sliding)
            x = x + self.experts(self.norm(x, n + "post_attention_layernorm"), n + "mlp.")
            hidden.append(x)
        y = round_inputs(self.norm(x, "model.norm"), self.rounding)
        return y @ self.p["lm_head.weight"].T, hidden
