#!/usr/bin/env python3
"""What the model that ships writes, and how well: docs/demo-samples.md, docs/demo-model.md and docs/demo-loss.png.

    tools/demo_report.py --binary build/clocher --model OUT/moe --dense OUT/dense --data DATA
                         --commands OUT/commands.txt --steps 2800 --docs OUT/ship/docs

Needs the standard library, and gnuplot for the plot. DATA holds the training texts (train.txt, stories_train.txt) and
those that were held out (valid.txt, stories_valid.txt). --model is what `clocher train base` wrote: the final folder, or
a snapshot step-NNNNNN in it. demo/train/run.sh calls this; the definitions of the figures stand in the page it writes. --self-check checks those over
the samples.
"""
import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

SEEDS = (1, 2, 3)
TOKENS = 120
TEMPERATURE = 0.8
TRAINED = ("train.txt", "stories_train.txt")
HELD_OUT = ("valid.txt", "stories_valid.txt")
WORDS_TARGET, REPEAT_TARGET, COPY_TARGET, COPY_SHARE = 0.97, 0.10, 12, 0.95
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
MODES = ["--precision", "fp32", "--deterministic"]


def die(text):
    sys.exit("demo_report: " + text)


def program(args, *command):
    done = subprocess.run([args.binary, *command, "--threads", str(args.threads), "--quiet"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    if done.returncode:
        die("%s: exit %d: %s" % (" ".join(command), done.returncode, done.stderr.decode(errors="replace").strip()))
    return json.loads(done.stdout)


# --- Samples -----------------------------------------------------------------------------------------------------------


def sample_command(model, prompt, seed):
    return ["run", "--model-dir", model, "--prompt", prompt, "--max-new", str(TOKENS), "--temperature",
            str(TEMPERATURE), "--seed", str(seed), *MODES, "--json"]


def words_of(text):
    """Words, lower case: letters, with apostrophes inside. Both forms of the apostrophe are one."""
    return [w.lower() for w in WORD.findall(text.replace("\u2019", "'"))]


def words_written(prompt, text):
    """The words of a continuation; a word that it goes on with from the prompt is whole."""
    before = 0
    for m in WORD.finditer(prompt.replace("\u2019", "'")):
        before += m.end() < len(prompt) or not text[:1].isalpha()
    return words_of(prompt + text)[before:]


def samples_make(args, prompts):
    samples = []
    for prompt in prompts:
        for seed in SEEDS:
            answer = program(args, *sample_command(args.model, prompt, seed))
            row = answer["rows"][0] if "rows" in answer else answer
            text, ids = row["text"], row["new_ids"]
            samples.append({"prompt": prompt, "seed": seed, "text": text, "tokens": len(ids),
                            "words": words_written(prompt, text)})
    return samples


def repeated(sample):
    """4-grams of words of a sample, and how many of them stood in it before."""
    words = sample["words"]
    grams = list(zip(words, words[1:], words[2:], words[3:]))
    return len(grams), len(grams) - len(set(grams))


def documents(path):
    """The documents of a text, which lines <|endoftext|> separate."""
    with open(path, encoding="utf-8", errors="replace") as f:
        lines = []
        for line in f:
            if line.rstrip("\n") == "<|endoftext|>":
                yield "".join(lines)
                lines = []
            else:
                lines.append(line)
        yield "".join(lines)


def compare_with_training(samples, paths):
    """Fills what each sample has of the training text: `known`, words that occur in it, and `copy`, the most words in a
    row that stand in one of its documents. Rows shorter than four words count as none."""
    where = {}  # 4-gram: where it stands in the samples
    for s in samples:
        s["copy"] = 0
        for i, gram in enumerate(zip(s["words"], s["words"][1:], s["words"][2:], s["words"][3:])):
            where.setdefault(gram, []).append((s, i))
    wanted = {w for s in samples for w in s["words"]}
    seen = set()
    for path in paths:
        for document in documents(path):
            words = words_of(document)
            seen |= wanted.intersection(words)
            for at, gram in enumerate(zip(words, words[1:], words[2:], words[3:])):
                if gram not in where:
                    continue
                for s, i in where[gram]:
                    mine = s["words"]
                    if i and at and mine[i - 1] == words[at - 1]:
                        continue  # a part of the row that began before
                    n = 4
                    while i + n < len(mine) and at + n < len(words) and mine[i + n] == words[at + n]:
                        n += 1
                    if n > s["copy"]:
                        s["copy"], s["copied"] = n, " ".join(mine[i:i + n])
    for s in samples:
        s["known"] = sum(w in seen for w in s["words"])
        s["unknown"] = sorted({w for w in s["words"] if w not in seen})


def quality(samples):
    words = sum(len(s["words"]) for s in samples)
    grams = [repeated(s) for s in samples]
    short = sum(s["copy"] < COPY_TARGET for s in samples)
    return {"samples": len(samples), "words": words, "known": sum(s["known"] for s in samples) / words,
            "repeated": sum(r for _, r in grams) / max(1, sum(n for n, _ in grams)),
            "short_copies": short / len(samples), "longest_copy": max(s["copy"] for s in samples)}


def samples_page(samples, args):
    out = ["# What the model that ships writes", "",
           "Continuations of the prompts in `tools/demo_prompts.txt` with seeds %s: %d tokens at temperature %s,"
           % (", ".join(map(str, SEEDS)), TOKENS, TEMPERATURE),
           "unedited, every one that was drawn. Figures over them are in [demo-model.md](demo-model.md). Each is",
           "", "```", "clocher run --model-dir demo/model --prompt PROMPT --max-new %d --temperature %s --seed SEED \\"
           % (TOKENS, TEMPERATURE), "  " + " ".join(MODES), "```", "",
           "Headings are the prompts. \"Copied\" is the longest row of words that stands so in the training text.", ""]
    if args.partial:
        out[1:1] = ["", "**%s**" % args.partial]
    for s in samples:
        if s["seed"] == SEEDS[0]:
            out += ["## %s" % s["prompt"], ""]
        end = "" if s["tokens"] >= TOKENS else ", ended by itself after %d tokens" % s["tokens"]
        unknown = "; not in the training text: %s" % ", ".join(s["unknown"]) if s["unknown"] else ""
        out += ["Seed %d (%d words, copied %s%s%s):" % (s["seed"], len(s["words"]), s["copy"] or "under 4", end, unknown),
                "", "````", s["text"], "````", ""]
    return "\n".join(out).rstrip("\n") + "\n"


def self_check():
    """The search for copies against trying every row of words, and the edges of a continuation."""
    assert words_written("Once upon a time", ", there was") == ["there", "was"]
    assert words_written("Once upon a tim", "es there") == ["times", "there"]
    assert words_written("found a", " cat\u2019s toy") == ["cat's", "toy"]
    assert repeated({"words": words_of("a b c d a b c d a b c d")}) == (9, 5)
    draw = random.Random(1)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        texts = [[draw.choice("abcd") for _ in range(1500)] for _ in range(2)]
        f.write("\n<|endoftext|>\n".join(map(" ".join, texts)) + "\n")
        f.flush()
        samples = [{"words": [draw.choice("abcd") for _ in range(60)]} for _ in range(20)]
        samples.append({"words": texts[0][-5:] + texts[1][:6]})  # no copy crosses from one document to the next
        compare_with_training(samples, [f.name])
    for s in samples:
        w = s["words"]
        rows = [n for i in range(len(w)) for n in range(4, len(w) - i + 1)
                if any(" %s " % " ".join(w[i:i + n]) in " %s " % " ".join(t) for t in texts)]
        assert s["copy"] == max(rows, default=0) and s["known"] == len(w), s
    print("demo_report: checked")


# --- Models ------------------------------------------------------------------------------------------------------------


def parameters(model):
    """(all, those that act for a token), of a gpt-oss configuration."""
    with open(os.path.join(model, "config.json")) as f:
        c = json.load(f)
    h, m, v, e, a = (c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["num_local_experts"],
                     c["num_experts_per_tok"])
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    expert = h * 2 * m + 2 * m + m * h + h
    layer = h * (q + 2 * kv) + q + 2 * kv + q * h + h + c["num_attention_heads"] + 2 * h + e * h + e
    outside = 2 * v * h + h
    return outside + c["num_hidden_layers"] * (layer + e * expert), \
        outside - v * h + c["num_hidden_layers"] * (layer + a * expert), c


def metrics_read(path):
    """Steps and evaluations by step. A run that was resumed wrote some steps twice: the last one counts."""
    steps, evaluations = {}, {}
    with open(path) as f:
        for line in f:
            o = json.loads(line)
            (evaluations if "valid_loss" in o else steps)[o["step"]] = o
    return steps, evaluations


def metrics_of(model):
    for folder in (model, os.path.dirname(os.path.abspath(model))):
        path = os.path.join(folder, "metrics.jsonl")
        if os.path.exists(path):
            return metrics_read(path)
    die("%s: no metrics.jsonl in it or beside it" % model)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def model_measure(args, folder):
    steps, evaluations = metrics_of(folder)
    snapshot = re.fullmatch(r"step-(\d+)", os.path.basename(os.path.normpath(folder)))
    last = int(snapshot.group(1)) if snapshot else max(steps)
    steps = {k: o for k, o in steps.items() if k <= last}
    out = {"steps": steps, "last": last, "evaluations": evaluations, "seconds": steps[last]["elapsed_s"]}
    out["all"], out["active"], out["config"] = parameters(folder)
    for text in HELD_OUT:
        out[text] = program(args, "eval", "ppl", "--model-dir", folder, "--text", os.path.join(args.data, text), "--ctx",
                            "512", "--stride", "256", "--documents", "--precision", "fp32", "--json")
    return out


def plot(path, models):
    """Losses of both runs, means over 20 steps, and evaluations."""
    if not shutil.which("gnuplot"):
        print("demo_report: no plot: gnuplot is not installed", file=sys.stderr)
        return False
    script, curves = [], []
    for name, m in models.items():
        for kind, rows in (("loss", [(k, mean(m["steps"][j]["loss"] for j in range(max(1, k - 19), k + 1) if j in m["steps"]))
                                     for k in sorted(m["steps"])]),
                           ("valid", [(k, o["valid_loss"]) for k, o in sorted(m["evaluations"].items())])):
            if rows:
                block = "$%s_%s" % (name, kind)
                script += ["%s << end" % block, *("%d %.5f" % r for r in rows), "end"]
                curves.append("%s with %s title '%s, %s'" % (block, "lines lw 1.5" if kind == "loss" else
                                                             "linespoints lw 2 pt 7", name,
                                                             "training" if kind == "loss" else "valid.txt"))
    script += ["set terminal pngcairo size 900,540", "set output '%s'" % path.replace("'", "''"), "set xlabel 'step'",
               "set ylabel 'loss, nats a token'", "set grid", "plot " + ", ".join(curves)]
    return subprocess.run(["gnuplot"], input="\n".join(script).encode()).returncode == 0


def rows_of(metrics):
    """Some steps of a run: losses are means over the 20 steps that end there."""
    steps = metrics["steps"]
    last = max(steps)
    shown = [k for k in (20, 100, 200, 500, *range(1000, last, 1000)) if k < last] + [last]
    for k in shown:
        near = [steps[j] for j in range(k - 19, k + 1) if j in steps]
        if near:
            yield k, mean(o["loss"] for o in near), mean(o["tok_s"] for o in near), mean(o.get("balance", 0) for o in near), \
                mean(o.get("idle_experts", 0) for o in near), near[-1]["lr"]


def verdict(good):
    return "yes" if good else "**no**"


def model_page(args, models, q, commands, plotted):
    moe, dense = models["moe"], models.get("dense")
    columns = [("mixture of experts", moe)] + ([("dense twin", dense)] if dense else [])
    c = moe["config"]
    out = ["# The model that ships", ""]
    if args.partial:
        out += ["**%s**" % args.partial, ""]
    out += ["`demo/model` is a model of gpt-oss's architecture: %d layers, sliding window %d and full attention in turn,"
            % (c["num_hidden_layers"], c["sliding_window"]),
            "sinks, %d experts in MXFP4 of which %d act, a byte-level BPE tokenizer of %d tokens. `clocher train` made all of it"
            % (c["num_local_experts"], c["num_experts_per_tok"], c["vocab_size"]),
            "from public-domain books and short stories, and this page is written by `tools/demo_report.py`.", "",
            "| | target | measured | |", "|---|---|---|---|",
            "| words that occur in the training text | %.0f%% or more | %.2f%% | %s |"
            % (100 * WORDS_TARGET, 100 * q["known"], verdict(q["known"] >= WORDS_TARGET)),
            "| 4-grams repeated inside a sample | %.0f%% or less | %.2f%% | %s |"
            % (100 * REPEAT_TARGET, 100 * q["repeated"], verdict(q["repeated"] <= REPEAT_TARGET)),
            "| samples whose longest copy is under %d words | %.0f%% or more | %.1f%%; the longest has %s words | %s |"
            % (COPY_TARGET, 100 * COPY_SHARE, 100 * q["short_copies"], q["longest_copy"] or "under 4",
               verdict(q["short_copies"] >= COPY_SHARE))]
    if dense:
        wins = all(moe[t]["bits_per_byte"] < dense[t]["bits_per_byte"] for t in HELD_OUT)
        out.append("| bits per byte against the dense twin | fewer on both texts | %s | %s |"
                   % (", ".join("%.1f%% fewer on %s" % (100 * (1 - moe[t]["bits_per_byte"] / dense[t]["bits_per_byte"]), t)
                                for t in HELD_OUT), verdict(wins)))
    out += ["", "Over %d texts of %d words in all, [unedited](demo-samples.md): words are letters with apostrophes inside, compared"
            % (q["samples"], q["words"]),
            "in lower case; a last word that the %d tokens cut counts like any other. A repeated 4-gram stood in the same text"
            % TOKENS, "before. A copy is a row of words, of those that the model wrote, that one document of the training text holds too.",
            "", "| | %s |" % " | ".join(n for n, _ in columns), "|---|%s" % ("---|" * len(columns))]

    def row(name, value):
        out.append("| %s | %s |" % (name, " | ".join(value(m) for _, m in columns)))
    for text in HELD_OUT:
        row("bits per byte, %s" % text, lambda m: "%.4f" % m[text]["bits_per_byte"])
        row("nats a token, %s" % text, lambda m: "%.4f" % m[text]["nll_nats"])
    row("parameters", lambda m: "{:,}".format(m["all"]))
    row("of them in products for a token", lambda m: "{:,}".format(m["active"]))
    row("experts, of which act, width", lambda m: "%d, %d, %d" % (
        m["config"]["num_local_experts"], m["config"]["num_experts_per_tok"], m["config"]["intermediate_size"]))
    row("steps", lambda m: "%d" % m["last"])
    row("tokens", lambda m: "{:,}".format(m["steps"][m["last"]]["tokens"]))
    row("loss, mean of the last 100 steps", lambda m: "%.4f" % mean(
        m["steps"][k]["loss"] for k in sorted(m["steps"])[-100:]))
    row("minutes in steps", lambda m: "%.0f" % (m["seconds"] / 60))
    if dense:
        out += ["", "The twin has one expert, twice as wide, which always acts: the same products for a token but for the router's,",
                "the same data in the same order, the same everything else."]
    else:
        out += ["", "A dense twin of equal training FLOP (`demo/train/config-dense.json`) is not trained yet: whether the experts win is open."]
    out += ["", "Held-out texts are measured by",
            "`clocher eval ppl --ctx 512 --stride 256 --documents --precision fp32`: each document for itself, as in training.", ""]
    if plotted:
        out += ["![Losses](demo-loss.png)", ""]
    out += ["## Commands", "", "`demo/train/run.sh DATA OUT` ran:", "", "```", *commands, "```", "", "## Steps of the shipped model", "",
            "| step | loss | learning rate | tokens/s | balance loss | idle experts |", "|---|---|---|---|---|---|"]
    out += ["| %d | %.4f | %.2e | %.0f | %.4f | %.3f |" % (k, loss, lr, speed, balance, idle)
            for k, loss, speed, balance, idle, lr in rows_of(moe)]
    out += ["", "Losses are means over the 20 steps that end there; every step is in `demo/train/metrics-moe.jsonl`."]
    return "\n".join(out) + "\n"


def commands_read(path):
    """Command lines, broken at 100 columns."""
    out = []
    with open(path) as f:
        for line in f:
            row = ""
            for word in line.split():
                if row and len(row) + len(word) > 100:
                    out.append(row + " \\")
                    row = " "
                row += (" " if row else "") + word
            out.append(row)
    return out


def main():
    if sys.argv[1:] == ["--self-check"]:
        return self_check()
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ap.add_argument("--binary", default=os.path.join(here, "build/clocher"))
    ap.add_argument("--model", required=True)
    ap.add_argument("--dense", help="the dense twin; without it only the model is reported")
    ap.add_argument("--data", required=True)
    ap.add_argument("--prompts", default=os.path.join(here, "tools/demo_prompts.txt"))
    ap.add_argument("--commands", help="the command lines that made the models")
    ap.add_argument("--steps", type=int, help="steps of a whole run: a shorter one is marked as such")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--docs", required=True, help="the folder of the pages")
    args = ap.parse_args()
    with open(args.prompts, encoding="utf-8") as f:
        prompts = [line.rstrip("\n") for line in f if line.strip()]

    models = {"moe": model_measure(args, args.model)}
    if args.dense:
        models["dense"] = model_measure(args, args.dense)
        if models["dense"]["last"] != models["moe"]["last"]:
            die("%s has %d steps, %s has %d" % (args.model, models["moe"]["last"], args.dense, models["dense"]["last"]))
        seen = [m["steps"][m["last"]]["tokens"] for m in models.values()]
        if seen[0] != seen[1]:
            die("%s saw %d tokens, %s saw %d" % (args.model, seen[0], args.dense, seen[1]))
    last = models["moe"]["last"]
    args.partial = "After %d of %d steps: not the model that ships." % (last, args.steps) if args.steps and last < args.steps else ""
    samples = samples_make(args, prompts)
    compare_with_training(samples, [os.path.join(args.data, t) for t in TRAINED])
    q = quality(samples)

    os.makedirs(args.docs, exist_ok=True)
    plotted = plot(os.path.join(args.docs, "demo-loss.png"), models)
    with open(os.path.join(args.docs, "demo-samples.md"), "w", encoding="utf-8") as f:
        f.write(samples_page(samples, args))
    with open(os.path.join(args.docs, "demo-model.md"), "w", encoding="utf-8") as f:
        f.write(model_page(args, models, q, commands_read(args.commands) if args.commands else [], plotted))
    print(json.dumps({"steps": last, **q, **{"%s %s" % (name, t): m[t]["bits_per_byte"]
                                             for name, m in models.items() for t in HELD_OUT}}, indent=2))


if __name__ == "__main__":
    main()
