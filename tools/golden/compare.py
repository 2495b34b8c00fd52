#!/usr/bin/env python3
"""Compares the program with the reference, from outside, and says where they part.

    tools/golden/compare.py --binary build/clocher --golden tests/data/models [--golden D]... \\
                            [--live demo/model]... [--same D1 D2] [--only NAME]

--golden D: the folders of D that hold a reference.safetensors (tests/data/README.md): logits of each case
  in class fp32 within 1e-4 of the largest, the teacher-forced and the free-running greedy ids, the residual
  stream after each layer, and the classes bf16 and int8 within twice the measured rounding error plus 0.001.
--live D: a Hugging Face checkpoint; transformers runs beside the program, on ids and on text: logits of all
  three classes, tokenizer both ways, greedy text.
--same D1 D2: the same checkpoints and references in both (to the bit; logits within 1e-5).

One line a check; exit status 1 when one fails.
"""
import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # see tools/README.md
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file

import checkpoint
import forward

TOLERANCE, DECIDED = 1e-4, 2e-4
TEXTS = ("Once upon a time, there was a little girl named Lily.", "", " ", "\n\n  two  spaces\tand a tab \n",
         "It's 12345 o'clock; we'll see (maybe)...", "naïve café — “quotes” … Übergröße ½ ①", "日本語のテキスト",
         "👩‍👩‍👧‍👦 and 🏳️‍🌈", "e\u0301 is not é", "<|endoftext|>", "a<|endoftext|>b", "<|start|>x<|end|>", "\u00a0\u2003\u3000.",
         "x" * 3000, "CamelCaseAndSNAKE_CASE 3.14159e-10 \r\n\r\n\r\n  end   ")


class Program:
    def __init__(self, binary):
        self.binary, self.failed, self.count = binary, 0, 0

    def result(self, name, problem, detail=""):
        self.count += 1
        self.failed += bool(problem)
        print(f"{'not ok' if problem else 'ok'} {self.count} - {name}{': ' if detail or problem else ''}"
              f"{problem or detail}", flush=True)

    def run(self, *args, stdin=b""):
        r = subprocess.run([self.binary, *map(str, args)], input=stdin, capture_output=True, timeout=600)
        if r.returncode:
            raise RuntimeError(f"{args[0]} ended with status {r.returncode}: "
                               + r.stderr.decode(errors="replace").strip()[-300:])
        return r.stdout

    def logits(self, directory, ids, precision, *flags):
        with tempfile.TemporaryDirectory() as d:
            out = os.path.join(d, "logits.safetensors")
            self.run("logits", "--model-dir", directory, "--ids", ",".join(map(str, ids)), "--precision", precision,
                     "--out", out, *flags)
            return {k: v.clone() for k, v in load_file(out).items()}

    def greedy(self, directory, ids, n):
        out = self.run("run", "--model-dir", directory, "--ids", ",".join(map(str, ids)), "--max-new", n, "--greedy",
                       "--print-ids", "--precision", "fp32")
        return [int(x) for x in out.decode().strip().splitlines()[-1].split(",")]

    def attempt(self, name, check, *args):
        """Runs a check, which returns (problem or None, detail)."""
        try:
            self.result(name, *check(*args))
        except (RuntimeError, OSError, KeyError, ValueError, IndexError, subprocess.TimeoutExpired) as e:
            self.result(name, f"{type(e).__name__}: {e}")


def relative(a, b):
    """max |a - b| / max |b|; infinite for another shape or a NaN."""
    if a.shape != b.shape:
        return float("inf")
    e = ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
    return e if e == e else float("inf")


def median_error(a, b):
    if a.shape != b.shape:
        return float("inf")
    e = ((a - b).abs().amax(-1).median() / b.abs().max()).item()
    return e if e == e else float("inf")


def within(value, limit):
    return (None if value <= limit else f"{value:.2e}, at most {limit:.2e}"), f"{value:.2e} of {limit:.2e}"


# ---------------------------------------------------------------- golden folders

def golden_folders(root, only):
    for name in sorted(os.listdir(root)):
        d = os.path.join(root, name)
        if os.path.exists(os.path.join(d, "reference.safetensors")) and (not only or only in name):
            yield d


def check_hidden(program, directory, reference):
    ours = program.logits(directory, reference["case1.ids"].tolist(), "fp32", "--hidden")
    errors = []
    while f"hidden.{len(errors)}" in reference:
        name = f"hidden.{len(errors)}"
        errors.append(relative(ours[name], reference[name]))
    bad = [n for n, e in enumerate(errors) if not e <= TOLERANCE]
    return (f"they part in {'the embedding' if bad[0] == 0 else f'layer {bad[0] - 1}'} ({errors[bad[0]]:.2e})"
            if bad else None), "largest " + " ".join(f"{e:.1e}" for e in errors)


def check_teacher(program, directory, ids, new, gap):
    logits = program.logits(directory, ids + new[:-1], "fp32")["logits"]
    best = logits[len(ids) - 1:].argmax(-1).tolist()
    bad = [k for k in range(len(new)) if gap[k] > DECIDED and best[k] != new[k]]
    return (f"other ids at steps {bad}" if bad else None), f"{sum(g > DECIDED for g in gap)} steps"


def check_greedy(program, directory, ids, new, gap):
    upto = next((k for k, g in enumerate(gap) if g <= DECIDED), len(gap))
    ours = program.greedy(directory, ids, len(new))
    same = next((k for k in range(upto) if k >= len(ours) or ours[k] != new[k]), upto)
    return (f"another id at step {same}" if same < upto else None), f"{upto} ids"


def check_golden(program, directory):
    name = os.path.basename(directory)
    reference = load_file(os.path.join(directory, "reference.safetensors"))
    with open(os.path.join(directory, "reference.json")) as f:
        info = json.load(f)
    if "hidden.0" in reference:
        program.attempt(f"{name}: residual stream of case 1", check_hidden, program, directory, reference)
    i = 0
    while f"case{i}.ids" in reference:
        ids, want = reference[f"case{i}.ids"].tolist(), reference[f"case{i}.logits"]
        new, gap = reference[f"case{i}.greedy"].tolist(), reference[f"case{i}.gap"].tolist()
        program.attempt(f"{name}: case {i}, class fp32", lambda: within(
            relative(program.logits(directory, ids, "fp32")["logits"], want), TOLERANCE))
        program.attempt(f"{name}: case {i}, teacher-forced ids", check_teacher, program, directory, ids, new, gap)
        program.attempt(f"{name}: case {i}, greedy ids", check_greedy, program, directory, ids, new, gap)
        i += 1
    ids, want = reference["case1.ids"].tolist(), reference["case1.logits"]
    for kind in ("bf16", "int8"):
        limit = 2 * info.get(f"rounding_error_{kind}_inputs_median", {"bf16": 0.015, "int8": 0.06}[kind]) + 0.001
        program.attempt(f"{name}: class {kind}, median", lambda: within(
            median_error(program.logits(directory, ids, kind)["logits"], want), limit))


def check_same(program, a, b):
    for d in golden_folders(a, None):
        name, problem = os.path.basename(d), None
        other = os.path.join(b, name)
        files = [f for f in os.listdir(d) if not f.startswith("reference")]
        _, differ, missing = filecmp.cmpfiles(d, other, files, shallow=False)
        if differ or missing:
            problem = "not equal: " + " ".join(differ + missing)
        else:
            x, y = (load_file(os.path.join(p, "reference.safetensors")) for p in (d, other))
            for key in x:
                if key not in y or x[key].dtype != y[key].dtype or not (
                        relative(x[key], y[key]) <= (1e-5 if x[key].is_floating_point() and "gap" not in key else 0.001)):
                    problem = f"{key} differs"
        program.result(f"{name}: written anew as committed", problem)


# ---------------------------------------------------------------- transformers beside the program

def check_tokenizer(program, directory, tok):
    lines = "".join(json.dumps(t) + "\n" for t in TEXTS).encode()
    out = program.run("tokenize", "--model-dir", directory, "--jsonl", stdin=lines).decode().splitlines()
    ours, theirs = [json.loads(x) for x in out], [tok.encode(t, add_special_tokens=False).ids for t in TEXTS]
    bad = [TEXTS[i][:20] for i in range(len(TEXTS)) if i >= len(ours) or ours[i] != theirs[i]]
    if bad:
        return f"other ids for {bad}", ""
    lines = "".join(json.dumps(i) + "\n" for i in theirs).encode()
    out = program.run("detokenize", "--model-dir", directory, "--jsonl", stdin=lines).decode().splitlines()
    bad = [t[:20] for t, x in zip(TEXTS, out) if json.loads(x) != t]
    return (f"another text for {bad}" if bad or len(out) != len(TEXTS) else None), f"{len(TEXTS)} texts both ways"


def live_cases(config, tok):
    """Text, and random ids past the window and past the context that YaRN starts from."""
    g = torch.Generator().manual_seed(7)
    original = config["rope"].get("original_max_position_embeddings", 256)
    if tok:
        yield "a sentence", tok.encode("Once upon a time, there was a little girl named Lily. She").ids
    yield "window + 40 ids", torch.randint(config["vocabulary"], (config["window"] + 40,), generator=g).tolist()
    yield f"{original + 88} ids", torch.randint(config["vocabulary"], (original + 88,), generator=g).tolist()


def check_live(program, directory):
    import transformers
    from gpt_oss import NEW, greedy, load_transformers, run_transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name, file = os.path.basename(os.path.normpath(directory)), os.path.join(directory, "tokenizer.json")
    model, config = load_transformers(directory), checkpoint.read_config(directory)
    parameters, tok = checkpoint.read_parameters(directory), None
    if os.path.exists(file):
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(file)
        program.attempt(f"{name}: tokenizer", check_tokenizer, program, directory, tok)
    for what, ids in live_cases(config, tok):
        want, _ = run_transformers(model, ids)
        noise = relative(want, forward.Model(config, parameters)(ids)[0].float())
        program.result(f"{name}: {what}, transformers against forward.py", *within(noise, TOLERANCE))
        program.attempt(f"{name}: {what}, class fp32", lambda: within(
            relative(program.logits(directory, ids, "fp32")["logits"], want), TOLERANCE))
        program.attempt(f"{name}: {what}, class fp32, chunks of 7", lambda: within(
            relative(program.logits(directory, ids, "fp32", "--chunk", 7)["logits"], want), TOLERANCE))
        for kind in ("bf16", "int8"):
            limit = 2 * median_error(forward.Model(config, parameters, torch.float32, rounding=kind)(ids)[0], want) + 0.001
            program.attempt(f"{name}: {what}, class {kind}, median", lambda: within(
                median_error(program.logits(directory, ids, kind)["logits"], want), limit))
        if len(ids) < 64:
            new, gap = greedy(model, ids)
            stop = config["eos"]
            if not set(new) & set(stop):
                program.attempt(f"{name}: {what}, {NEW} greedy ids", check_greedy, program, directory, ids, new, gap)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", default="build/clocher")
    ap.add_argument("--golden", action="append", default=[])
    ap.add_argument("--live", action="append", default=[])
    ap.add_argument("--same", nargs=2)
    ap.add_argument("--only")
    args = ap.parse_args()
    torch.set_num_threads(1)
    program = Program(args.binary)
    if args.same:
        check_same(program, *args.same)
    for root in args.golden:
        for directory in golden_folders(root, args.only):
            check_golden(program, directory)
    for directory in args.live:
        check_live(program, directory)
    print(f"{program.count - program.failed} of {program.count} hold")
    sys.exit(program.failed > 0 or program.count == 0)


if __name__ == "__main__":
    main()
