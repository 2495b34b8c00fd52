#!/usr/bin/env python3
"""Adapters between PEFT and the program, both ways.

    tools/golden/adapter.py --binary build/clocher --writer build/tests/test_adapter --model D [--model D]...

For each model, in f32: adapters as PEFT makes them in several settings. Each is read and written again by the program
(--writer FROM OUT), loaded by PEFT, and must give the same tensors and logits; and `clocher merge` of it must give the
logits of PEFT's merged model. Then an adapter that the program made is loaded by PEFT, which must find each of its
matrices, and its merged model is compared in the same way.

One line a check; exit status 1 when one fails.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # see tools/README.md
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

TOLERANCE = 1e-4
IDS = [(7 * i * i + 3 * i + 1) % 64 for i in range(40)]


def settings(gptneox):
    first, second = ("query_key_value", "dense") if gptneox else ("q_proj", "down_proj")
    return {
        "a list": dict(r=8, lora_alpha=16, target_modules=[first, second]),
        "an expression": dict(r=4, lora_alpha=6, target_modules=rf".*layers\.(0|1)\..*({first}|{second})"),
        "all-linear, rsLoRA": dict(r=3, lora_alpha=7, target_modules="all-linear", use_rslora=True),
        "patterns": dict(r=8, lora_alpha=16, target_modules=[first, second], rank_pattern={second: 2, rf"layers\.1\..*{first}": 5},
                         alpha_pattern={first: 3}),
        "bfloat16": dict(r=8, lora_alpha=16, target_modules=[first]),
    }


class Checks:
    failed = count = 0

    def result(self, name, problem):
        self.count += 1
        self.failed += bool(problem)
        print(f"{'not ok' if problem else 'ok'} {self.count} - {name}{': ' + problem if problem else ''}", flush=True)


def command(*args):
    r = subprocess.run(list(map(str, args)), capture_output=True, timeout=600)
    if r.returncode:
        raise RuntimeError(f"{args[1]} ended with status {r.returncode}: " + r.stderr.decode(errors="replace").strip()[-300:])


def base(model):
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()


def torch_logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float()


def program_logits(binary, directory, out):
    command(binary, "logits", "--model-dir", directory, "--ids", ",".join(map(str, IDS)), "--precision", "fp32", "--out", out)
    return load_file(out)["logits"]


def apart(a, b):
    columns = min(a.shape[1], b.shape[1])
    return ((a[:, :columns] - b[:, :columns]).abs().max() / b.abs().max()).item()


def compared(name, a, b, limit):
    e = apart(a, b)
    return "" if e <= limit else f"{name}: {e:.1e} apart, expected {limit:.0e}"


def same_tensors(a, b):
    x, y = (load_file(os.path.join(d, "adapter_model.safetensors")) for d in (a, b))
    if x.keys() != y.keys():
        return f"names differ: {sorted(x.keys() ^ y.keys())[:4]}"
    return next((f"{k} differs" for k in x if not torch.equal(x[k].float(), y[k].float())), "")


def round_trip(args, model, name, options, folder):
    torch.manual_seed(1)
    adapted = get_peft_model(base(model), LoraConfig(task_type="CAUSAL_LM", **options))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.uniform_(value, -0.05, 0.05)
    if name == "bfloat16":
        for key, value in adapted.named_parameters():
            if "lora_" in key:
                value.data = value.data.bfloat16()
    made, again, merged = (os.path.join(folder, n) for n in ("made", "again", "merged"))
    adapted.save_pretrained(made)
    command(args.writer, "--write", made, again)
    problem = same_tensors(made, again)
    loaded = PeftModel.from_pretrained(base(model), again).eval()
    reference = torch_logits(PeftModel.from_pretrained(base(model), made).eval())
    problem = problem or compared("PEFT with what the program wrote", torch_logits(loaded), reference, 1e-6)
    if apart(torch_logits(base(model)), reference) < 1e-3:
        problem = "the adapter changes nothing, so it shows nothing"
    command(args.binary, "merge", "--model-dir", args.wide, "--adapter", made, "--out", merged)
    return problem or compared("merged", program_logits(args.binary, merged, os.path.join(folder, "logits")), reference, TOLERANCE)


def made_here(args, model, folder):
    new, merged = os.path.join(folder, "new"), os.path.join(folder, "merged")
    command(args.writer, "--write", args.wide, new)
    tensors = load_file(os.path.join(new, "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(base(model), new).eval()
    found = {k.replace(".default", ""): v for k, v in loaded.state_dict().items() if "lora_" in k}
    if found.keys() != tensors.keys():
        return f"PEFT has other matrices: {sorted(found.keys() ^ tensors.keys())[:4]}"
    for key, value in tensors.items():
        if not torch.equal(found[key].float(), value):
            return f"PEFT has other numbers in {key}"
        if "lora_A" in key and not 0.9 < value.abs().max() * value.shape[1] ** 0.5 <= 1:
            return f"{key} is not drawn from U(-1/sqrt(in), 1/sqrt(in))"
    reference = torch_logits(loaded)
    command(args.binary, "merge", "--model-dir", args.wide, "--adapter", new, "--out", merged)
    return (compared("PEFT's merge_and_unload", torch_logits(loaded.merge_and_unload()), reference, TOLERANCE)
            or compared("transformers with the merged model", torch_logits(base(merged)), reference, TOLERANCE)
            or compared("merged", program_logits(args.binary, merged, os.path.join(folder, "logits")), reference, TOLERANCE))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--writer", required=True)
    parser.add_argument("--model", action="append", required=True)
    args = parser.parse_args()
    logging.disable_progress_bar()
    checks = Checks()
    for model in args.model:
        name = os.path.basename(model)
        gptneox = json.load(open(os.path.join(model, "config.json")))["model_type"] == "gpt_neox"
        with tempfile.TemporaryDirectory() as top:
            args.wide = os.path.join(top, "wide")  # the model in f32, so that merged weights are not rounded
            base(model).save_pretrained(args.wide)
            cases = [(n, lambda d, n=n, o=o: round_trip(args, model, n, o, d)) for n, o in settings(gptneox).items()]
            if gptneox:
                cases.append(("made by the program", lambda d: made_here(args, model, d)))
            for case, check in cases:
                folder = os.path.join(top, "case")
                os.mkdir(folder)
                try:
                    problem = check(folder)
                except Exception as e:  # a failure of one check is a result
                    problem = f"{type(e).__name__}: {e}"
                checks.result(f"{name}: {case}", problem)
                shutil.rmtree(folder)
    print(f"1..{checks.count}")
    return checks.failed > 0


if __name__ == "__main__":
    sys.exit(main())
