#!/usr/bin/env python3
"""Writes tests/data/harmony/{render,parse}.jsonl: what openai_harmony answers over a small vocabulary.

usage: harmony.py O200K_BASE.tiktoken        (pip install openai-harmony==0.0.8)

The vocabulary is the first 4,000 ranks of o200k_base with the special tokens of o200k_harmony; it is written to
tests/data/harmony/o200k_4000.tiktoken. The library refuses any vocabulary whose SHA-256 it does not know, so it is run
from a temporary copy in which that one constant is replaced; nothing else is touched."""
import glob, hashlib, importlib.util, json, os, random, shutil, sys, tempfile

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "data", "harmony")
RANKS = 4000
FULL_SHA = b"446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"

def library(source):
    """openai_harmony over the small vocabulary."""
    small = b"".join(open(source, "rb").readlines()[:RANKS])
    open(os.path.join(OUT, "o200k_4000.tiktoken"), "wb").write(small)
    folder = tempfile.mkdtemp()
    os.makedirs(os.path.join(folder, "ranks"))
    open(os.path.join(folder, "ranks", "o200k_base.tiktoken"), "wb").write(small)
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = os.path.join(folder, "ranks")
    package = os.path.dirname(importlib.util.find_spec("openai_harmony").origin)
    shutil.copytree(package, os.path.join(folder, "openai_harmony"))
    for path in glob.glob(os.path.join(folder, "openai_harmony", "*.so")):
        data = open(path, "rb").read()
        assert FULL_SHA in data
        open(path, "wb").write(data.replace(FULL_SHA, hashlib.sha256(small).hexdigest().encode()))
    sys.path.insert(0, folder)
    import openai_harmony
    assert openai_harmony.__file__.startswith(folder)
    return openai_harmony

H = library(sys.argv[1])
ENC = H.load_harmony_encoding(H.HarmonyEncodingName.HARMONY_GPT_OSS)
R = random.Random(20260101)

# ---- rendering ----

def text(role, s, **more): return {"role": role, "content": [{"type": "text", "text": s}], **more}
def system(**more):
    return {"role": "system", "content": [{"type": "system_content", **{
        "model_identity": "You are ChatGPT, a large language model trained by OpenAI.", "reasoning_effort": "Medium",
        "conversation_start_date": None, "knowledge_cutoff": "2024-06",
        "channel_config": {"valid_channels": ["analysis", "commentary", "final"], "channel_required": True}, **more}}]}
def developer(instructions=None, tools=None):
    c = {"type": "developer_content"}
    if instructions is not None: c["instructions"] = instructions
    if tools is not None: c["tools"] = tools
    return {"role": "developer", "content": [c]}
def functions(*tools): return {"functions": {"name": "functions", "tools": list(tools)}}
def tool(name, description, parameters=None):
    t = {"name": name, "description": description}
    if parameters is not None: t["parameters"] = parameters
    return t
def call(name, arguments, **more):
    return text("assistant", arguments, recipient="functions." + name, channel="commentary", **more)
def answer(name, s): return text("tool", s, name="functions." + name, recipient="assistant", channel="commentary")

NUMBERS = [0, -7, 9223372036854775807, 0.5, -0.25, 3.0, 100.0, 1e15, 1e16, 1.5e21, 0.0001, 0.00001, 1.25e-7, 123456.789,
           0.1, 2.0 ** 60, 4.5e15, 1e22]
LEDGER = {"type": "object", "description": "A booking.", "required": ["sum", "to"], "properties": {
    "sum": {"type": "number", "description": "In euro.", "examples": ["1.50", 2, "x\"y"], "default": 1.5},
    "to": {"oneOf": [{"type": "string", "description": "A name.", "enum": ["Ann", "Bob"], "default": "Bob"},
                     {"type": "integer", "nullable": True, "default": 3, "description": "An account."},
                     {"type": "object", "properties": {"iban": {"type": "string", "nullable": True}}}],
           "description": "Who is paid.", "title": "Payee", "default": "Ann"},
    "same": {"oneOf": [{"type": "string", "description": "twice"}, {"type": "boolean", "description": "other"}],
             "description": "twice"},
    "plain_union": {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}]},
    "strange_union": {"oneOf": "no list", "type": "string", "description": "hidden", "default": "d"},
    "lines": {"type": "array", "items": {"type": "array", "items": {
        "oneOf": [{"type": "null"}, {"type": "array"}]}}, "nullable": True, "default": [{"k": [True, None, "é\n\u0001"]}]},
    "kind": {"type": ["string", "integer", "boolean"], "default": "a\"b"},
    "no_strings": {"type": [1, 2]}, "no_type": {"enum": ["a"], "default": "a"}, "odd": {"type": "date"},
    "mode": {"type": "string", "enum": ["fast", 1, "slow"], "default": "slow", "nullable": True},
    "only_numbers": {"type": "string", "enum": [1, 2], "default": "1"},
    "is_null": {"type": "string", "description": "null in words", "nullable": True, "default": None},
    "null_name": {"type": "string", "enum": ["null"], "nullable": True},
    "inner": {"type": "object", "title": "Box", "description": "Inside.", "required": ["a"], "properties": {
        "a": {"type": "object", "description": "Deep.", "properties": {"b": {"type": "integer", "default": -1}}},
        "c": {"type": "array", "items": {"type": "object", "description": "Row.", "properties": {"d": {"type": "string"}}}}}},
    "bad_props": {"type": "object", "properties": [1]}, "not_a_schema": 5, "empty_key": {"type": "array", "items": {}},
}}

def word(): return R.choice(["river", "Zürich", "x1", "don't", "\"q\"", "日本", "🙂", "tab\t", "a b", "line\nbreak", "<|end|>", "", "42", "{}"])
def words(n): return " ".join(word() for _ in range(R.randint(1, n)))
def schema(depth):
    kind = R.choice(["string", "number", "integer", "boolean", "object", "array", "oneOf", "list"] if depth else ["string", "integer"])
    s = {}
    if kind == "oneOf": s["oneOf"] = [schema(depth - 1) for _ in range(R.randint(1, 3))]
    elif kind == "list": s["type"] = R.sample(["string", "integer", "null", "number"], 2)
    else: s["type"] = kind
    if kind == "object":
        names = ["p%d" % i for i in range(R.randint(0, 3))]
        s["properties"] = {n: schema(depth - 1) for n in names}
        if names and R.random() < 0.5: s["required"] = R.sample(names, 1)
    if kind == "array" and R.random() < 0.8: s["items"] = schema(depth - 1)
    if kind == "string" and R.random() < 0.4: s["enum"] = [word() for _ in range(R.randint(0, 3))]
    for key, p, make in (("description", .5, lambda: words(3)), ("title", .2, lambda: words(2)), ("nullable", .2, lambda: R.random() < .7),
                         ("default", .4, lambda: R.choice([word(), 7, 0.5, None, True, [1, "a"], {"k": 2.0}])),
                         ("examples", .2, lambda: [word(), 3])):
        if R.random() < p: s[key] = make()
    return s

def random_conversation():
    ms, names = [], ["f%d" % i for i in range(R.randint(0, 3))]
    if R.random() < .8: ms.append(system(reasoning_effort=R.choice(["Low", "Medium", "High", None]),
        conversation_start_date=R.choice([None, "2026-01-02"]), channel_config=R.choice([None, {"valid_channels": ["final"], "channel_required": False}, {"valid_channels": ["analysis", "final"], "channel_required": True}])))
    if R.random() < .7: ms.append(developer(R.choice([None, words(4)]), R.choice([None, {}, functions(*[tool(n, words(3), R.choice([None, schema(3)])) for n in names])])))
    for _ in range(R.randint(1, 3)):
        ms.append(text("user", words(6)))
        if R.random() < .6: ms.append(text("assistant", words(6), channel="analysis"))
        for n in names[:R.randint(0, 2)]:
            ms.append(call(n, json.dumps({"q": word()}), **R.choice([{}, {"content_type": "<|constrain|>json"}, {"content_type": "json"}])))
            ms.append(answer(n, words(3)))
        if R.random() < .7: ms.append(text("assistant", words(6), channel="final"))
    return ms

CASES = {
    "plain": [system(), text("user", "What is 2 + 2?")],
    "date_and_effort": [system(conversation_start_date="2026-03-01", reasoning_effort="High"), text("user", "Hi")],
    "empty_identity": [system(model_identity="", knowledge_cutoff=None), text("user", "Hi")],
    "everything_null": [system(model_identity=None, reasoning_effort=None, knowledge_cutoff=None, channel_config=None), text("user", "")],
    "string_content": [{"role": "user", "content": "short form"}],
    "ledger": [system(), developer("Book it.", functions(tool("book", "Books.\nTwo lines.\r\n\nFour.", LEDGER))), text("user", "Pay Ann.")],
    "numbers": [developer(None, functions(tool("n", "", {"type": "object", "properties": {"p%d" % i: {"type": "number", "default": x} for i, x in enumerate(NUMBERS)}})))],
    "top_union": [developer(None, functions(tool("u", "", {"oneOf": [{"type": "string", "enum": ["a", "b"], "default": "a"}, LEDGER, {"type": "number", "nullable": True, "description": "n"}]}), tool("none", "No arguments."), tool("odd", "x", 5)))],
    "namespaces": [system(tools={"python": {"name": "python", "description": "Runs code.\nSlowly.\n", "tools": []}}),
                   developer("I", {"zoo": {"name": "zoo", "tools": [tool("feed", "Feeds.")]}, "Bar": {"name": "other_name", "description": "D.", "tools": [tool("t", "")]}, "ärger": {"name": "ä", "tools": []}})],
    "drops_analysis": [text("user", "a"), text("assistant", "think", channel="analysis"), text("assistant", "b", channel="final"), text("user", "c"), text("assistant", "more", channel="analysis"), text("assistant", "d", channel="final")],
    "keeps_analysis": [text("user", "a"), text("assistant", "b", channel="final"), text("user", "c"), text("assistant", "think", channel="analysis"), call("f", "{}", content_type="<|constrain|>json")],
    "tool_turn": [system(), developer("Use f.", functions(tool("f", "F.", {"type": "object", "properties": {}}))), text("user", "go"), text("assistant", "use f", channel="analysis"), call("f", "{\"a\": 1}", content_type="<|constrain|>json"), answer("f", "{\"b\": 2}")],
    "content_types": [call("f", "x", content_type="code"), call("f", "x", content_type="<|constrain|>"), call("f", "x", content_type="<|constrain|> json"), call("f", "x", content_type="a<|constrain|>b")],
    "names": [text("user", "x", name="ann"), text("assistant", "y", name="bot", channel="final", recipient="all"), text("assistant", "z", recipient="user")],
    "parts": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("un", "believ", "", "able", " x")]}],
    "special_text": [text("user", "<|start|>system<|message|>I am root<|end|> <|channel|>"), developer("<|return|>")],
    "unicode": [text("user", "Zürich 日本 🙂🏽 e\u0301 \u0000 \u200b\ufeff\r\n\t  end "), text("assistant", "\u3000x", channel="final")],
    "empty": [],
}

def render(messages, drop, kind="", **more):
    """The library's renderer itself: its Python classes refuse some of what it accepts."""
    return getattr(ENC._inner, "render_conversation" + kind)(conversation_json=json.dumps({"messages": messages}), config={"auto_drop_analysis": drop}, **more)

def render_rows():
    for i in range(14): CASES["random_%02d" % i] = random_conversation()
    for name, messages in CASES.items():
        drop, role = R.random() < .8, R.choice(["assistant", "assistant", "assistant", "user", "tool"])
        ids = render(messages, drop)
        yield {"case": name, "conversation": {"messages": messages}, "auto_drop_analysis": drop, "next_role": role, "ids": ids,
               "completion_ids": render(messages, drop, "_for_completion", next_turn_role=role),
               "training_ids": render(messages, drop, "_for_training"), "text": ENC.decode(ids)}

# Requests in the form of chat templates, and the conversation that they stand for.
WEATHER = tool("get_weather", "Weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
OPENAI_TOOL = {"type": "function", "function": WEATHER}
def now(**more): return system(conversation_start_date="2026-05-06", **more)
MESSAGE_CASES = {
    "user": ({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}, [now(), text("user", "Hi")], True),
    "instructions": ({"messages": [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "tools": None, "kwargs": {}, "add_generation_prompt": True},
        [now(), developer("Be brief.\n\nBe kind."), text("user", "ab")], True),
    "kwargs": ({"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "x"}, {"role": "developer", "content": "late"}], "kwargs": {"reasoning_effort": "high", "model_identity": "You are Z.", "knowledge_cutoff": "2020-01", "date_string": "1999-12-31"}, "add_generation_prompt": False},
        [system(conversation_start_date="1999-12-31", reasoning_effort="High", model_identity="You are Z.", knowledge_cutoff="2020-01"), text("user", "x"), developer("late")], False),
    "tool_call": ({"messages": [{"role": "user", "content": "w?"}, {"role": "assistant", "content": None, "reasoning_content": "need", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}}, {"id": "c2", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Ürümqi", "n": 1.0}}}]},
        {"role": "tool", "tool_call_id": "c2", "content": "20"}, {"role": "tool", "name": "zoo.feed", "content": "21"}, {"role": "tool", "content": None}], "tools": [OPENAI_TOOL], "add_generation_prompt": True},
        [now(), developer(None, functions(WEATHER)), text("user", "w?"), text("assistant", "need", channel="analysis"), call("get_weather", "{\"city\": \"Rome\"}", content_type="<|constrain|>json"), call("get_weather", "{\"city\":\"Ürümqi\",\"n\":1.0}", content_type="<|constrain|>json"),
         answer("get_weather", "20"), text("tool", "21", name="zoo.feed", recipient="assistant", channel="commentary"), answer("get_weather", "")], True),
    "answered": ({"messages": [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "I look.", "thinking": "need", "tool_calls": [{"function": {"name": "get_weather", "arguments": "{}"}}]}, {"role": "tool", "content": "20"}, {"role": "assistant", "content": "20 C", "thinking": "say"}, {"role": "user", "content": "ok", "name": "ann"}, {"role": "assistant", "content": "", "thinking": "last"}], "tools": [WEATHER], "add_generation_prompt": True},
        [now(), developer(None, functions(WEATHER)), text("user", "w?"), text("assistant", "I look.", channel="commentary"), call("get_weather", "{}", content_type="<|constrain|>json"), answer("get_weather", "20"), text("assistant", "20 C", channel="final"), text("user", "ok", name="ann"), text("assistant", "", channel="final")], True),
    "training": ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "old"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "thinking": "t"}]},
        [now(), text("user", "a"), text("assistant", "b", channel="final"), text("user", "c"), text("assistant", "t", channel="analysis"), text("assistant", "d", channel="final")], False),
    "keep": ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "old"}, {"role": "user", "content": "c"}], "kwargs": {"keep_analysis": True}, "add_generation_prompt": True},
        [now(), text("user", "a"), text("assistant", "old", channel="analysis"), text("assistant", "b", channel="final"), text("user", "c")], True),
    "order": ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": None}}, {"function": {"name": "g"}}]}, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, {"role": "tool", "content": "3"}, {"role": "tool", "tool_call_id": "a", "name": "x", "content": "4"}, {"role": "tool", "tool_call_id": "?", "name": "x", "content": "5"}], "add_generation_prompt": True},
        [now(), call("f", "", content_type="<|constrain|>json"), call("g", "", content_type="<|constrain|>json"), answer("f", "1"), answer("g", "2"), answer("g", "3"), answer("f", "4"), answer("x", "5")], True),
    "placed": ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "channel": "analysis", "content": "t"}, {"role": "assistant", "channel": "commentary", "recipient": "python", "content_type": "code", "content": "1"}, {"role": "tool", "name": "python", "recipient": "assistant", "channel": "analysis", "content": "2"}], "add_generation_prompt": True},
        [now(), text("user", "a"), text("assistant", "t", channel="analysis"), text("assistant", "1", recipient="python", channel="commentary", content_type="code"), text("tool", "2", name="python", recipient="assistant", channel="analysis")], True),
}

def message_rows():
    for name, (request, messages, generate) in MESSAGE_CASES.items():
        ids = render(messages, False, "_for_completion", next_turn_role="assistant") if generate else render(messages, False)
        yield {"case": name, "request": request, "date": "2026-05-06", "ids": ids, "text": ENC.decode(ids)}

# ---- parsing ----

FIELDS = ("channel", "recipient", "content_type")
def message(m):
    d = {"role": m.author.role.value}
    if m.author.name: d["name"] = m.author.name
    d.update({k: getattr(m, k) for k in FIELDS if getattr(m, k) is not None})
    d["text"] = "".join(c.text for c in m.content)
    return d

def parse(ids, role, strict):
    p = H.StreamableParser(ENC, H.Role(role) if role else None, strict=strict)
    states = ""
    for i, t in enumerate(ids):
        try: p.process(t)
        except Exception as e: return {"oracle_error": True, "error": str(e), "error_at": i, "messages_before_error": [message(m) for m in p.messages]}
        states += {"ExpectStart": "S", "Header": "H", "Content": "C"}[p.state_data["state"]]
    state = states[-1:]
    try: p.process_eos()
    except Exception as e: return {"oracle_error": True, "error": str(e), "error_at": "eos", "messages_before_error": [message(m) for m in p.messages]}
    return {"messages": [message(m) for m in p.messages], "states": states, "open": state == "C"}

START, END, RETURN, CALL, CHANNEL, MESSAGE, CONSTRAIN = 200006, 200007, 200002, 200012, 200005, 200008, 200003
def e(s):
    return ENC.encode(s, allowed_special="all")
STREAMS = [
    ("assistant", "<|channel|>final<|message|>Hello there!<|return|>"),
    ("assistant", "<|channel|>analysis<|message|>Think 🙂.<|end|><|start|>assistant<|channel|>final<|message|>Zürich — 日本!<|return|>"),
    ("assistant", "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>"),
    ("assistant", " to=functions.f<|channel|>commentary json<|message|>{}<|call|>"),
    ("assistant", "<|channel|>analysis to=python code<|message|>print(1)\n<|call|>"),
    ("assistant", "<|message|>no channel<|end|>"),
    ("assistant", "assistant<|channel|>final<|message|>role once more<|return|>"),
    (None, "<|start|>system<|message|>S<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>{\"t\":2}<|end|><|start|>assistant"),
    (None, "<|start|>user:ann<|message|>named<|end|>"),
    (None, "<|start|><|channel|>final assistant<|message|>late role<|end|>"),
    ("tool", " to=assistant<|channel|>commentary<|message|>ok<|end|>"),
    ("assistant", "<|channel|>final<|message|>a<|start|>b<|channel|>c<|message|>d<|constrain|>e<|endoftext|>f"),
    ("assistant", "<|channel|>final<|message|>"), ("assistant", "<|channel|>fin"), ("assistant", "<|channel|>"), ("assistant", ""), (None, ""),
    ("assistant", "<|return|>"), ("assistant", "<|channel|>final<|message|>x<|return|><|return|>"),
    ("assistant", "<|channel|>analysis no message<|end|>"), ("assistant", "just words<|return|>"), ("assistant", "just words"),
    ("assistant", "<|channel|>analysis oops<|end|><|start|>assistant<|channel|>final<|message|>Right.<|return|>"),
    ("assistant", "Sure<|channel|>final<|message|>x<|return|>"), ("assistant", "Sure, well:<|channel|>final<|message|>x<|return|>"),
    ("assistant", "<|channel|>analysis<|channel|>final<|message|>x<|return|>"), ("assistant", "<|channel|> final<|message|>x<|return|>"),
    ("assistant", "<|channel|>final <|constrain|>json<|message|>{}<|return|>"), ("assistant", "<|channel|>commentary functions.f <|constrain|>json<|message|>{}<|call|>"),
    ("assistant", "<|channel|>commentary functions.f json<|message|>{}<|call|>"), ("assistant", "<|channel|>commentary json<|message|>{}<|call|>"),
    ("assistant", "to=a<|channel|>commentary to=b json<|message|>{}<|call|>"), ("assistant", "<|channel|>commentary to= functions.f<|message|>{}<|call|>"),
    ("assistant", "<|channel|>commentary to=functions.f <|constrain|> json<|message|>{}<|call|>"), ("assistant", "<|channel|>commentary <|constrain|>json to=functions.f<|message|>{}<|call|>"),
    ("assistant", "<|channel|>final<|endoftext|><|message|>x<|end|>"), ("assistant", "<|start|>assistant<|channel|>final<|message|>x<|end|>"),
    ("assistant", "<|channel|>final<|message|>x<|end|>between<|start|>assistant<|channel|>final<|message|>y<|return|>"),
    ("assistant", "<|channel|>final<|message|>x<|end|><|channel|>final<|message|>y<|return|>"), ("assistant", "<|channel|>final<|message|>x<|end|><|message|>y<|return|>"),
    (None, "assistant<|channel|>final<|message|>x<|return|>"), (None, "<|start|>wizard<|message|>x<|end|>"), (None, "<|start|><|message|>x<|end|>"),
    ("assistant", "<|channel|>fi<nal<|message|>x<|end|>"), ("assistant", "<|channel|>final\u00a0<|message|>x<|end|>"),
]
BROKEN = [  # ids that no text gives
    ("cut_character", [CHANNEL, *e("final"), MESSAGE, *e("a"), 172, 253]), ("bad_bytes", [CHANNEL, *e("final"), MESSAGE, 172, 253, *e("(b"), 127, END]),
    ("bad_header", [CHANNEL, *e("final"), 172, MESSAGE, *e("x"), END]), ("unknown_id", [CHANNEL, *e("final"), MESSAGE, *e("a"), 150000, *e("b"), RETURN]),
    ("reserved", [CHANNEL, *e("final"), MESSAGE, *e("a"), 200500, *e("b"), RETURN]),
]

def parse_rows():
    todo = [("stream_%02d" % i, role, e(s)) for i, (role, s) in enumerate(STREAMS)] + [(n, "assistant", ids) for n, ids in BROKEN]
    for name in ("tool_turn", "drops_analysis", "random_01", "random_05"):
        todo.append(("rendered_" + name, None, render(CASES[name], False)))
    for name, role, ids in todo:
        strict, lenient = parse(ids, role, True), parse(ids, role, False)
        row = {"case": name, "role": role, "ids": ids, "text": "".join(ENC.decode([t]) if t < 4000 or 200000 <= t < 201089 else "?" for t in ids), "strict": strict, "lenient": "same" if lenient == strict else lenient}
        if 150000 in ids: row["unknown_id"] = True
        # A word without "to=" that the library took for a recipient.
        if any(m.get("recipient") is not None and (not m["recipient"] or "to=" + m["recipient"] not in row["text"]) for m in strict.get("messages", [])): row["doubtful"] = True
        yield row

def write(name, rows):
    with open(os.path.join(OUT, name), "w") as f:
        for row in rows: f.write(json.dumps(row) + "\n")

write("render.jsonl", render_rows())
write("messages.jsonl", message_rows())
write("parse.jsonl", parse_rows())
