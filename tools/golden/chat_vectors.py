#!/usr/bin/env python3
"""Writes tests/data/text/chat/*.jsonl: prompts of the chat formats, over small vocabularies.

usage: chat_vectors.py TEMPLATES        (pip install transformers tiktoken)

TEMPLATES is a folder with the published chat templates: qwen2.5.jinja (Qwen/Qwen2.5-7B-Instruct), qwen3.jinja
(Qwen/Qwen3-0.6B), llama3.1.jinja (meta-llama/Llama-3.1-8B-Instruct), llama3.2.jinja (Llama-3.2-3B-Instruct) and
c2c_default.jinja. transformers renders them; none is copied. Special tokens are then cut out of the text and the pieces
between them encoded by tiktoken over the small vocabularies of tests/data. Texts hold no special tokens: those in a
user's text are plain text for Clocher (tests/test_chat_render.c), but not for transformers.

nanochat's conversations are rendered here by its rule (nanochat/tokenizer.py, render_conversation)."""
import base64, json, os, random, re, sys, unicodedata
import tiktoken
from transformers.utils.chat_template_utils import render_jinja_template

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "..", "tests", "data")
OUT = os.path.join(DATA, "text", "chat")
R = random.Random(20261121)

def ranks(path):
    return {base64.b64decode(l.split()[0]): int(l.split()[1]) for l in open(os.path.join(DATA, path)) if l.strip()}

QWEN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
LLAMA = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
NANO = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""
QWEN_IDS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<tool_call>": 151657,
            "</tool_call>": 151658}
QWEN3_IDS = {**QWEN_IDS, "<tool_response>": 151665, "</tool_response>": 151666, "<think>": 151667, "</think>": 151668}
LLAMA_IDS = {n: 4000 + i for n, i in {"<|begin_of_text|>": 0, "<|start_header_id|>": 6, "<|end_header_id|>": 7,
             "<|eom_id|>": 8, "<|eot_id|>": 9, "<|python_tag|>": 10}.items()}

class Coder:
    def __init__(self, file, pattern, special, nfc=False):
        self.special, self.nfc = special, nfc
        self.plain = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks(file), special_tokens={})
        self.cut = re.compile("|".join(re.escape(s) for s in sorted(special, key=len, reverse=True)) or "(?!)")
    def text(self, s):
        return self.plain.encode_ordinary(unicodedata.normalize("NFC", s) if self.nfc else s)
    def __call__(self, s):
        ids, at = [], 0
        for m in self.cut.finditer(s):
            ids += self.text(s[at:m.start()]) + [self.special[m.group()]]
            at = m.end()
        return ids + self.text(s[at:])

FORMATS = {
    "qwen2.5": Coder("text/qwen_4000.tiktoken", QWEN, QWEN_IDS, nfc=True),
    "qwen3": Coder("text/qwen_4000.tiktoken", QWEN, QWEN3_IDS, nfc=True),
    "llama3.1": Coder("harmony/o200k_4000.tiktoken", LLAMA, LLAMA_IDS),
    "llama3.2": Coder("harmony/o200k_4000.tiktoken", LLAMA, LLAMA_IDS),
    "c2c": Coder("text/qwen_4000.tiktoken", QWEN, {}, nfc=True),
}

# ---- conversations ----

NUMBERS = [0, -7, 2**63 - 1, 0.5, -0.25, 3.0, 100.0, 1e15, 1e16, 1.5e21, 0.0001, 0.00001, 1.25e-7, 123456.789, 1e-7, -0.0,
           5e-324, 1.7976931348623157e308, 9007199254740993.0, 0.1, 2.5e-5]
TEXTS = ["", "Hello!", " a \n", "\n\nb", "Wie spät? 日本語 é fi", "x\u00a0", "\x1cq\x1f", "1\n\n2\n", "{\"a\": 1}", "a\tb",
         "The quick brown fox.", "don't", "\u3000 wide", "<b>&amp;'\"\\</b>"]

def text(): return R.choice(TEXTS)
def value(depth=0):
    k = R.randrange(9 if depth < 3 else 6)
    if k < 2: return R.choice(NUMBERS)
    if k < 4: return R.choice(TEXTS)
    if k < 6: return R.choice([True, False, None])
    if k < 8: return {R.choice("abcdeé") + str(i): value(depth + 1) for i in range(R.randrange(4))}
    return [value(depth + 1) for _ in range(R.randrange(4))]
def arguments(): return {"x%d" % i: value() for i in range(R.randrange(3))}
def tool():
    return {"type": "function", "function": {"name": R.choice(["get_weather", "calc", "now"]), "description": text(),
            "parameters": {"type": "object", "properties": arguments(), "required": []}}}
def call(): return {"type": "function", "function": {"name": R.choice(["get_weather", "calc"]), "arguments": arguments()}}

def conversation(fmt):
    llama = fmt.startswith("llama")
    messages = [{"role": "system", "content": text()}] if R.random() < .4 else []
    for turn in range(R.randrange(1, 4)):
        messages.append({"role": "user", "content": text()})
        while fmt != "c2c" and R.random() < .35:
            calls = [call() for _ in range(1 if llama else R.randrange(1, 3))]
            m = {"role": "assistant", "content": R.choice(["", text()]), "tool_calls": calls}
            if fmt == "qwen3" and R.random() < .5: m["reasoning_content"] = text()
            messages.append(m)
            messages += [{"role": "tool", "content": value() if llama and R.random() < .5 else text()} for _ in calls]
        if turn == 2 or R.random() < .7:
            m = {"role": "assistant", "content": text()}
            if fmt == "qwen3" and R.random() < .3: m["reasoning_content"] = text()
            elif fmt == "qwen3" and R.random() < .3:
                m["content"] = R.choice(["<think>\nhm\n</think>\n\n", "hm</think>", "<think>a</think>b<think>c</think>"]) + text()
            messages.append(m)
    if R.random() < .2: messages.append({"role": "system", "content": text()})
    return messages

def request(fmt):
    kwargs = {}
    if fmt == "qwen3" and R.random() < .3: kwargs["enable_thinking"] = R.random() < .5
    if fmt == "llama3.2" or fmt == "llama3.1" and R.random() < .3: kwargs["date_string"] = R.choice(["26 Jul 2024", "x"])
    if fmt.startswith("llama") and R.random() < .3: kwargs["tools_in_user_message"] = R.random() < .5
    if fmt == "llama3.1" and R.random() < .2: kwargs["builtin_tools"] = R.sample(["brave_search", "code_interpreter", "calc"], 2)
    tools = [tool() for _ in range(R.randrange(1, 3))] if fmt != "c2c" and R.random() < .4 else None
    return {"messages": conversation(fmt), "tools": tools, "kwargs": kwargs, "add_generation_prompt": R.random() < .7}

def write(fmt, template, coder, rows):
    with open(os.path.join(OUT, fmt + ".jsonl"), "w") as f:
        while rows:
            q = request(fmt)
            try:
                t, _ = render_jinja_template(conversations=[q["messages"]], tools=q["tools"], chat_template=template,
                                             add_generation_prompt=q["add_generation_prompt"], bos_token="<|begin_of_text|>",
                                             **q["kwargs"])
            except Exception: # what the template refuses, such as a built-in tool's argument that is no string
                continue
            f.write(json.dumps({**q, "text": t[0], "ids": coder(t[0])}) + "\n")
            rows -= 1

def nanochat(rows):
    coder = Coder("text/nanochat_500.tiktoken", NANO, {})
    base = len(ranks("text/nanochat_500.tiktoken"))
    bos, user, user_end, assistant, assistant_end, py, py_end, out, out_end = range(base, base + 9)
    with open(os.path.join(OUT, "nanochat.jsonl"), "w") as f:
        for _ in range(rows):
            messages = [{"role": "system", "content": text()}] if R.random() < .3 else []
            for _ in range(R.randrange(1, 4)):
                parts = [{"type": R.choice(["text", "python", "python_output"]), "text": text()} for _ in range(R.randrange(4))]
                messages += [{"role": "user", "content": text()},
                             {"role": "assistant", "content": R.choice([text(), parts])}]
            if R.random() < .2: messages.pop()
            def render(messages):
                ids, mask = [bos], [0]
                def add(new, trained):
                    ids.extend(new); mask.extend([trained] * len(new))
                messages = [dict(m) for m in messages]
                if messages[0]["role"] == "system":
                    messages[1]["content"] = messages[0]["content"] + "\n\n" + messages[1]["content"]
                    messages = messages[1:]
                for m in messages:
                    c = m["content"]
                    if m["role"] == "user":
                        add([user] + coder(c) + [user_end], 0)
                        continue
                    add([assistant], 0)
                    for p in [{"type": "text", "text": c}] if isinstance(c, str) else c:
                        v = coder(p["text"])
                        if p["type"] == "text": add(v, 1)
                        if p["type"] == "python": add([py] + v + [py_end], 1)
                        if p["type"] == "python_output": add([out] + v + [out_end], 0)
                    add([assistant_end], 1)
                return ids, mask
            limit = R.choice([2048, 2048, 7, 20])
            ids, mask = render(messages)
            row = {"conversation": {"messages": messages}, "max_tokens": limit, "ids": ids[:limit], "mask": mask[:limit]}
            if messages[-1]["role"] == "assistant": row["completion_ids"] = render(messages[:-1])[0][:limit] + [assistant]
            f.write(json.dumps(row) + "\n")

for name, coder in FORMATS.items():
    template = open(os.path.join(sys.argv[1], ("c2c_default" if name == "c2c" else name) + ".jinja")).read()
    write(name, template, coder, 12 if name == "c2c" else 24)
nanochat(25)
