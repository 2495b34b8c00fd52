#!/usr/bin/env python3
"""Compares `clocher train tokenizer` with the trainer of the Hugging Face tokenizers library, merge by merge.

    tools/golden/bpe_train.py --binary build/clocher [--text FILE --vocab N]... [--write tests/data/bpe]

Without --text: a text made here that holds what is hard (runs of one character, ties, bytes of all kinds), in several
vocabulary sizes. --write DIR keeps that text and the library's merges, which tests/test_bpe_train.c reads.
One line a check; exit status 1 when one fails.
"""
import argparse
import base64
import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
HARMONY = ["<|startoftext|>", END, "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>",
           "<|call|>"]


def documents(text):
    """What stands between lines that are exactly the separator; src/text/documents.h."""
    found, lines = [], []
    for line in text.split("\n") + [END]:
        if line.rstrip("\r") == END and line in (END, END + "\r"):
            found.append("\n".join(lines))
            lines = []
        else:
            lines.append(line)
    if found and found[-1].endswith("\n"):
        found[-1] = found[-1][:-1]
    return [d for d in found if d]


def reference(text, vocab, specials, pattern, min_frequency):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, show_progress=False,
                                  min_frequency=min_frequency,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(documents(text), trainer)
    return tok


def merges_of(model):
    return [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]


def hard_text():
    rng = random.Random(5)
    words = ["the", "there", "them", "theme", "aaaa", "aaaaaaa", "-----", "========", "____", "ababab", "naïve", "東京都",
             "🙂🙃", "don't", "I'LL", "12345", "3.14", "x\u0301y", "\u00a0", "ß", "\t\t", "   ", "\r\n", "!!!", "<|endoftext|>"]
    out = []
    for _ in range(60):
        n = rng.randrange(1, 60)
        out.append(rng.choice(["", " "]) + rng.choice(["", " ", "\n"]).join(
            rng.choice(words) * rng.choice([1, 1, 1, 2, 3]) + rng.choice([" ", "", "\n", "\n\n", ". "]) for _ in range(n)))
        # runs of many lengths: two ways to one token
        out.append(" ".join(rng.choice("a-=x") * rng.randrange(1, 45) for _ in range(12)))
        out.append(END)
    return "\n".join(out)


def check(binary, name, path, text, vocab, how, specials, min_frequency, results):
    flags = ["--specials", how, "--min-frequency", str(min_frequency)]
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([binary, "train", "tokenizer", "--text", path, "--vocab", str(vocab), "--out", d, "--quiet"] + flags,
                       check=True)
        own = json.load(open(os.path.join(d, "tokenizer.json"), encoding="utf-8"))
        pattern = own["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        ref = reference(text, vocab, specials, pattern, min_frequency)
        want = json.loads(ref.to_str())["model"]
        a, b = merges_of(own["model"]), merges_of(want)
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        problem = "" if a == b else f"{len(a)} merges, {len(b)} expected; they part at {at}: {a[at:at+2]} {b[at:at+2]}"
        if not problem and set(own["model"]["vocab"]) != set(want["vocab"]):
            problem = "the vocabularies differ"
        loaded = Tokenizer.from_file(os.path.join(d, "tokenizer.json"))
        sample = text[:20000]
        if not problem and loaded.decode(loaded.encode(sample).ids, skip_special_tokens=False) != sample:
            problem = "what the library decodes is not what it encoded"
        ids = subprocess.run([binary, "tokenize", "--tokenizer", os.path.join(d, "tokenizer.json")], check=True,
                             input=sample.encode(), capture_output=True).stdout
        if not problem and json.loads(ids) != loaded.encode(sample).ids:
            problem = "the program and the library encode differently"
        for line in open(os.path.join(d, "tokenizer.tiktoken")):
            token, rank = line.split()
            spelled = loaded.id_to_token(int(rank))
            if not problem and decoders.ByteLevel().decode([spelled]).encode() != base64.b64decode(token) \
                    and "\ufffd" not in decoders.ByteLevel().decode([spelled]):
                problem = f"the rank file has another token {rank}"
        results.append(not problem)
        print(f"{'not ok' if problem else 'ok'} {len(results)} - {name}, vocabulary {vocab}, {how}, "
              f"min_frequency {min_frequency}: {problem or str(len(a)) + ' merges'}", flush=True)
        return b


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", required=True)
    p.add_argument("--text", action="append", default=[])
    p.add_argument("--vocab", action="append", type=int, default=[])
    p.add_argument("--write")
    args = p.parse_args()
    results = []
    text = hard_text()
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as f:
        f.write(text)
        f.flush()
        for vocab, how, specials, least in ((300, "plain", [END], 2), (700, "harmony", HARMONY, 2), (900, "none", [], 1),
                                            (2000, "plain", [END], 1)):
            merges = check(args.binary, "hard text", f.name, text, vocab, how, specials, least, results)
            if args.write and vocab == 900:
                os.makedirs(args.write, exist_ok=True)
                open(os.path.join(args.write, "hard.txt"), "w", encoding="utf-8", newline="").write(text)
                open(os.path.join(args.write, "hard.merges"), "w", encoding="utf-8").write("\n".join(merges) + "\n")
    for path, vocab in zip(args.text, args.vocab):
        text = open(path, encoding="utf-8", newline="").read()
        check(args.binary, os.path.basename(path), path, text, vocab, "plain", [END], 2, results)
        check(args.binary, os.path.basename(path), path, text, vocab, "plain", [END], 1, results)
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
