#!/usr/bin/env python3
"""What the program trains, in transformers and PEFT.

    tools/golden/trained.py --binary build/clocher [--models tests/data/models] [--made tests/data/training]

- `clocher train sft` on golden models, and `clocher train base` from a config.json alone: transformers loads the folder
  and computes the logits of `clocher logits`.
- The step itself: a model after one step is not what it was.
- `clocher train lora`: PEFT loads the folder, finds each of its matrices, and computes the logits of
  `clocher logits --adapter`; and the reverse, an adapter that PEFT made, also gone on with (`--adapter-in`).

One line a check; exit status 1 when one fails.
"""
import argparse
import os
import shutil
import sys
import tempfile

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # see tools/README.md
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from adapter import Checks, base, command, compared, torch_logits
from gpt_oss import load_transformers

TOLERANCE = 1e-4
IDS = [(7 * i * i + 3 * i + 1) % 64 for i in range(40)]  # as adapter.torch_logits has them
STEPS = 4


def logits(binary, directory, folder, *flags):
    out = os.path.join(folder, "logits")
    command(binary, "logits", "--model-dir", directory, "--ids", ",".join(map(str, IDS)), "--precision", "fp32", "--out", out,
            *flags)
    return load_file(out)["logits"]


def ids_file(folder):
    torch.manual_seed(3)
    path = os.path.join(folder, "ids.safetensors")
    save_file({"data": torch.randint(0, 64, (STEPS, 2, 24), dtype=torch.int32)}, path)
    return path


def train(binary, part, model, out, data, *flags):
    command(binary, "train", part, "--model-dir", model, "--data-ids", data, "--out", out, "--steps", STEPS, "--batch", 2,
            "--lr", "1e-2", "--precision", "fp32", "--quiet", *flags)


def trained_model(args, part, model, load, folder):
    out = os.path.join(folder, "out")
    train(args.binary, part, model, out, ids_file(folder))
    mine = logits(args.binary, out, folder)
    if part == "sft" and not compared("", logits(args.binary, model, folder), mine, 1e-2):
        return "training changes nothing, so it shows nothing"
    return compared("transformers", torch_logits(load(out)), mine, TOLERANCE)


def lora_here(args, model, folder, targets=""):
    out = os.path.join(folder, "out")
    train(args.binary, "lora", model, out, ids_file(folder), "--lora", "r=4,alpha=8" + targets)
    tensors = load_file(os.path.join(out, "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(base(model), out).eval()
    found = {k.replace(".default", "") for k in loaded.state_dict() if "lora_" in k}
    if found != tensors.keys():
        return f"PEFT has other matrices: {sorted(found ^ tensors.keys())[:4]}"
    reference = torch_logits(loaded)
    if not compared("", torch_logits(base(model)), reference, 1e-3):
        return "the adapter changes nothing, so it shows nothing"
    return compared("logits --adapter", logits(args.binary, model, folder, "--adapter", out), reference, TOLERANCE)


def lora_there(args, model, folder, targets="all-linear"):
    torch.manual_seed(1)
    adapted = get_peft_model(base(model), LoraConfig(task_type="CAUSAL_LM", r=6, lora_alpha=9, target_modules=targets))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.uniform_(value, -0.05, 0.05)
    made, on = os.path.join(folder, "made"), os.path.join(folder, "on")
    adapted.save_pretrained(made)
    problem = compared("logits --adapter", logits(args.binary, model, folder, "--adapter", made), torch_logits(adapted.eval()),
                       TOLERANCE)
    if problem:
        return problem
    train(args.binary, "lora", model, on, ids_file(folder), "--adapter-in", made)
    reference = torch_logits(PeftModel.from_pretrained(base(model), on).eval())
    return compared("gone on with", logits(args.binary, model, folder, "--adapter", on), reference, TOLERANCE)


def cases(args):
    for name in ("qwen2", "qwen3", "llama3", "gpt-neox-parallel", "nanochat-hf"):
        model = os.path.join(args.models, name)
        yield f"{name}: trained", lambda d, m=model: trained_model(args, "sft", m, base, d)
    for name in ("gpt-oss-hf", "gpt-oss-hf-v5", "gpt-oss-bf16"):
        model = os.path.join(args.models, name)
        yield f"{name}: trained", lambda d, m=model: trained_model(args, "sft", m, load_transformers, d)
    made = os.path.join(args.made, "gpt-oss")
    yield "gpt-oss from config.json: trained", lambda d: trained_model(args, "base", made, load_transformers, d)
    for name in ("qwen3", "llama3", "gpt-neox-parallel"):
        model = os.path.join(args.models, name)
        yield f"{name}: an adapter made here", lambda d, m=model: lora_here(args, m, d)
        yield f"{name}: an adapter made by PEFT", lambda d, m=model: lora_there(args, m, d)
    # The output matrix: of qwen3 it is the embedding, which the adapter does not change; of llama3 its own.
    for name in ("qwen3", "llama3"):
        model = os.path.join(args.models, name)
        yield f"{name}: an adapter on lm_head made here", lambda d, m=model: lora_here(args, m, d, ",targets=lm_head+q_proj")
        yield f"{name}: an adapter on lm_head made by PEFT", lambda d, m=model: lora_there(args, m, d, ["lm_head", "q_proj"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--models", default="tests/data/models")
    parser.add_argument("--made", default="tests/data/training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    checks = Checks()
    with tempfile.TemporaryDirectory() as top:
        for name, check in cases(args):
            folder = os.path.join(top, "case")
            os.mkdir(folder)
            try:
                problem = check(folder)
            except Exception as e:  # a failure of one check is a result
                problem = f"{type(e).__name__}: {e}"
            checks.result(name, problem)
            shutil.rmtree(folder)
    print(f"1..{checks.count}")
    return checks.failed > 0


if __name__ == "__main__":
    sys.exit(main())
