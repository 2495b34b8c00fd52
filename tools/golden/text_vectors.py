#!/usr/bin/env python3
"""Writes tests/data/text: small tokenizers and what the reference libraries answer for them.

    python3 tools/golden/text_vectors.py --o200k o200k_base.tiktoken --qwen qwen.tiktoken --out tests/data/text

The rank files are the public ones; their first ranks (all bytes, then the most frequent tokens) make the small
vocabularies. Ids, offsets and decoded bytes come from `tokenizers` (tokenizer.json) and `tiktoken` (rank files).
Needs tokenizers and tiktoken; the C tests read the result without Python."""
import argparse
import base64
import json
import os
import pickle
import random
import struct
import unicodedata

import tiktoken
from tokenizers import Tokenizer

O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NANOCHAT = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
HARMONY = {199998: "<|startoftext|>", 199999: "<|endoftext|>", 200002: "<|return|>", 200003: "<|constrain|>",
           200005: "<|channel|>", 200006: "<|start|>", 200007: "<|end|>", 200008: "<|message|>", 200012: "<|call|>"}
QWEN = ("<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
        "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
        "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
        "<tool_response> </tool_response> <think> </think>").split()
NANO_SPECIALS = ("<|bos|> <|user_start|> <|user_end|> <|assistant_start|> <|assistant_end|> <|python_start|> "
                 "<|python_end|> <|output_start|> <|output_end|>").split()

TEXTS = [
    "", " ", "\n", "a", "Hello, world!", "Hello world's children'LL they'd we've I'M don't 'tis 'S 'ſ x'ſ",
    "  two  spaces   three\n\n newline \r\n\r\n crlf\t\ttab \u00a0nbsp\u3000wide\u1680 \u180e mongol\u2028ls\u0085nel",
    "1 12 123 1234 12345 3.14159 ٣٤٥٦ ⅷ ½ 𝟘𝟙𝟚 ①②③", "ABCdef ABC abcDEF aBcDeF XMLHttpRequest ǅungla ʰAʰa",
    "naïve café ÉTÉ e\u0301te\u0301 a\u0323\u0302 \u0301start ﬁ ﬀ ㍿ ½x Å Å 각 \u1100\u1161\u11a8 \uac00\u11a8",
    "日本語のテキスト。中文，标点！ 한국어 문장 ไทยภาษา हिन्दी நிலை العربية שָׁלוֹם Ελληνικά Кириллица",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☃️ ﷺ \u200b\ufeffbom \U0001f469\U0001f3fd", "def f(x):\n    return x**2  # comment\n\n\nprint(f(3))\n",
    "http://example.org/a//b?q=1&r=2#frag /* c */ // d\n///\n", "!!! ??? ... --- === ### \\n \\t {}[]()<>|&^%$#@~`",
    "<|endoftext|> <|start|>user<|message|>hi<|end|><|im_start|>x<|im_end|><think>t</think><|bos|>y<|reserved_200013|>",
    "<mask>a <mask> b  <mask>  c<sep>  d <sep> e <both>  f  <both>  g", "word words sword word. (word) wordé _word word_ 1word",
    "<n><n><n> <n> <N> ½x 1⁄2x été ÉTÉ Été", "don't  stop\u2026 \u201cquoted\u201d \u2018single\u2019 \u2014 dash\u2013en",
    "\u0378\u16ea\U00010d4a\U00010d50\U000105c0\U00011b61\U0001e5d0\U00031350\u1c89\ua7cb\u088f\u0897",
    "a" * 70 + " " * 30 + "b" * 130, "ab" * 60 + "\n" * 9, "\t \t \n \t x", "x \n  y\n   z", "'s't're", "x'S'T", "''", "' '",
    "\u0300\u0301\u0302 \u0f71\u0f80\u0f72 a\u0315\u0300\u05ae\u0062 \u1e9b\u0323 q\u0307\u0323", "\x00\x01\x7f\x1c\x1d",
    "Straße SS ẞ İ ı K Ω", "100,000.00 €5 £6 ¥7 ₿8 5′ 6″", "\u07fd\u0898\u1715\U00011938x \u32ff \U0001fbf0",
]
ALPHABET = ([chr(c) for c in range(32, 127)] + list("\n\r\t  ") + list("éÉßſİǅʰªᵃ中文한ไख़़́̂̇̈०१½Ⅷ²€∑•“”…—\u00a0\u3000\u2028\u0085\u200d")
            + ["\U0001f600", "\U0001d7d8", "\u1100", "\u1161", "\u11a8", "'s", "'LL", "<n>", "<sep>", " word", "  ", "    "])


def texts(seed, count=24):
    rnd = random.Random(seed)
    return TEXTS + ["".join(rnd.choice(ALPHABET) for _ in range(rnd.randint(1, 40))) for _ in range(count)]


def ranks(path, count):
    out = {}
    for line in open(path, "rb"):
        token, rank = line.split()
        if int(rank) < count:
            out[base64.b64decode(token)] = int(rank)
    assert all(bytes([b]) in out for b in range(256)) and len(out) == count
    return out


def write_ranks(path, table):
    with open(path, "wb") as f:
        f.writelines(base64.b64encode(t) + b" %d\n" % r for t, r in sorted(table.items(), key=lambda x: x[1]))


def byte_chars():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 400))
    return {b: chr(b if b in shown else next(rest)) for b in range(256)}


CHARS = byte_chars()


def shown(token):
    return "".join(CHARS[b] for b in token)


def all_merges(table):
    """Each way to cut a token in two, in the order of the tokens: what the converters of transformers write."""
    out = []
    for token, _ in sorted(table.items(), key=lambda x: x[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in table and token[i:] in table]
        out += sorted(cuts, key=lambda p: (table[p[0]], table[p[1]]))
    return [[shown(a), shown(b)] for a, b in out]


def added(contents, start, **flags):
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": start + i, "content": c, **base, **flags} for i, c in enumerate(contents)]


def byte_level(**options):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **options}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def document(table, pre, merges="pairs", normalizer=None, post=None, tokens=(), **model):
    pairs = all_merges(table)
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(tokens),
            "normalizer": normalizer, "pre_tokenizer": pre if isinstance(pre, dict) else
            {"type": "Sequence", "pretokenizers": pre}, "post_processor": post, "decoder": byte_level(),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {shown(t): r for t, r in sorted(table.items(), key=lambda x: x[1])},
                      "merges": pairs if merges == "pairs" else [" ".join(p) for p in pairs], **model}}


def documents(o200k, qwen):
    small = {t: r for t, r in o200k.items() if r < 600}
    flags = (added(["<mask>"], 600, lstrip=True) + added(["<sep>"], 601, rstrip=True) +
             added(["<both>"], 602, lstrip=True, rstrip=True) + added(["word"], 603, single_word=True, special=False) +
             added(["½x"], 604, normalized=True, special=False) + added(["<n>"], 605, normalized=True) +
             added(["<n><n>"], 606, special=False))
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [600], "tokens": ["<s>"]},
                                   "</s>": {"id": "</s>", "ids": [601], "tokens": ["</s>"]}}}
    unknown = {t: r for t, r in small.items() if t not in (b"e", b"z", b"\xc3", b"!")}
    unknown = {t: i for i, t in enumerate(t for t in sorted(unknown, key=unknown.get)
                                          if not any(m in t for m in (b"e", b"z", b"\xc3", b"!")))}
    unk = document(unknown, byte_level(use_regex=True), unk_token="<unk>", fuse_unk=True)
    unk["model"]["vocab"]["<unk>"] = len(unknown)
    unk["added_tokens"] = added(["<unk>"], len(unknown))
    return {
        "o200k_600": document(small, [split(O200K), byte_level()], ignore_merges=True,
                              tokens=added(list(HARMONY.values()), 600)),
        "qwen_600": document({t: r for t, r in qwen.items() if r < 600}, [split(CL100K % ""), byte_level(trim_offsets=False)],
                             merges="strings", normalizer={"type": "NFC"}, post=byte_level(trim_offsets=False),
                             tokens=added(QWEN[:14], 600) + added(QWEN[14:], 614, special=False)),
        "flags": document(small, [split(CL100K % "{1,3}"), byte_level()], normalizer={"type": "NFKC"}, tokens=flags),
        "template": document(small, [split(NANOCHAT), byte_level()], ignore_merges=True,
                             normalizer={"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "NFD"}]},
                             post={"type": "Sequence", "processors": [byte_level(), template]},
                             tokens=added(["<s>", "</s>"], 600)),
        "prefix": document(small, [{"type": "Digits", "individual_digits": False},
                                   byte_level(add_prefix_space=True, use_regex=True)], merges="strings",
                           post=byte_level(add_prefix_space=True), tokens=added(["<|endoftext|>"], 600)),
        "digits": document(small, [{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)],
                           tokens=added(["    ", "  "], 600, normalized=True, special=False), post=byte_level()),
        "splits": document(small, [split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+|\p{Sm}+"), split("[一-龥]+"),
                                   split(r"(?<=\p{Nd})\p{Nd}{3}(?!\p{N})|[^\P{L}A-Z]+|\x61\u0062"),
                                   {"type": "Digits", "individual_digits": True}, byte_level()]),
        "behaviors": document(small, [split("o", "MergedWithNext", kind="String"), split(r"\s+", "MergedWithPrevious"),
                                      split("[xyz]", "Removed"), split(r"[^\p{Ll}\p{Lu}]", "Contiguous"),
                                      split("(?i:the|ing)|[.,;!?]+", "Isolated", invert=True), byte_level()]),
        "words": document(small, [split(r"\p{M}+|\p{S}|\p{P}{2,}|[\p{N}\p{Lm}]+|\d+|\D", "MergedWithPrevious"),
                                  split(r"\w+|[\w-]{2}", "Contiguous", True),
                                  split(r"[^\P{L}A-Z]+|\W{2}|[\W\d]|(?i:k|'s|th)+|[\p{Nd}\p{Zs}]{2,3}?", "MergedWithNext"),
                                  byte_level(use_regex=True)]),
        "unk": unk,
    }


def rows_json(name, document_):
    tokenizer = Tokenizer.from_str(json.dumps(document_))
    for i, text in enumerate(texts(name)):
        for parse in (True, False):
            for special in ((False, True) if document_["post_processor"] else (False,)):
                tokenizer.encode_special_tokens = not parse
                e = tokenizer.encode(text, add_special_tokens=special)
                starts = [0]
                for c in text:
                    starts.append(starts[-1] + len(c.encode()))
                row = {"tokenizer": name + ".tokenizer.json", "text": text, "parse_special": parse, "add_special": special,
                       "ids": e.ids}
                if i % 3 == 0:
                    row["offsets"] = [[starts[a], starts[b]] for a, b in e.offsets]
                if not parse and row["ids"] == last:  # says nothing new
                    continue
                last = row["ids"]
                yield row


def rows_tiktoken(name, encoding, encoder, normalize=None):
    for text in texts(name):
        for parse in (True, False):
            if normalize and (unicodedata.normalize("NFC", text) != text):
                continue
            ids = encoder.encode(text, allowed_special="all" if parse else set(), disallowed_special=())
            if not parse and ids == last:
                continue
            last = ids
            yield {"tokenizer": name, "encoding": encoding, "text": text, "parse_special": parse, "add_special": False,
                   "ids": ids}


def ietok1(document_):
    vocab = {**document_["model"]["vocab"], **{t["content"]: t["id"] for t in document_["added_tokens"]}}
    strings = lambda items: b"".join(struct.pack("<I", len(s.encode())) + s.encode() for s in items)
    names = strings(sorted(vocab, key=vocab.get))
    merges = strings(s for pair in document_["model"]["merges"] for s in pair)
    return b"IETOK1" + struct.pack("<H6I", 1, len(vocab), len(document_["model"]["merges"]), 32, 32 + len(names),
                                   32 + len(names) + len(merges), 0) + names + merges


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--o200k", "--qwen", "--out"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    path = lambda name: os.path.join(args.out, name)
    o200k, qwen = ranks(args.o200k, 4000), ranks(args.qwen, 4000)
    write_ranks(path("qwen_4000.tiktoken"), qwen)
    rows = []
    made = documents(o200k, qwen)
    for name, document_ in made.items():
        with open(path(name + ".tokenizer.json"), "w") as f:
            json.dump(document_, f, ensure_ascii=False, separators=(",", ":"))
        rows += rows_json(name, document_)
    harmony = {v: k for k, v in HARMONY.items()}
    harmony.update({f"<|reserved_{i}|>": i for i in range(200000, 201088) if i not in harmony.values()})
    harmony["<|endofprompt|>"] = 200018
    rows += rows_tiktoken("../harmony/o200k_4000.tiktoken", "o200k_harmony",
                          tiktoken.Encoding("o", pat_str=O200K, mergeable_ranks=o200k, special_tokens=harmony))
    for encoding, specials in (("qwen2.5", QWEN[:22]), ("qwen3", QWEN)):
        rows += rows_tiktoken("qwen_4000.tiktoken", encoding,
                              tiktoken.Encoding(encoding, pat_str=CL100K % "", mergeable_ranks=qwen,
                                                special_tokens={s: 151643 + i for i, s in enumerate(specials)}), "NFC")
    nano = {t: r for t, r in o200k.items() if r < 500}
    encoder = tiktoken.Encoding("rustbpe", pat_str=NANOCHAT, mergeable_ranks=nano,
                                special_tokens={s: 500 + i for i, s in enumerate(NANO_SPECIALS)})
    with open(path("nanochat_500.pkl"), "wb") as f:
        pickle.dump(encoder, f, protocol=4)
    rows += rows_tiktoken("nanochat_500.pkl", None, encoder)
    write_ranks(path("nanochat_500.tiktoken"), nano)
    rows += rows_tiktoken("nanochat_500.tiktoken", "nanochat", encoder)
    with open(path("o200k_600.ie.bin"), "wb") as f:
        f.write(ietok1(made["o200k_600"]))
    with open(path("vectors.jsonl"), "w") as f:
        for row in rows:
            f.write(json.dumps({k: v for k, v in row.items() if v is not None}, separators=(",", ":")) + "\n")
    print(len(rows), "rows")


main()
