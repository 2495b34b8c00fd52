#!/usr/bin/env python3
"""Writes src/text/unicode_table.c: what the tokenizer has to know of Unicode.

    python3 tools/unicode/make_table.py [--check classes.tsv] > src/text/unicode_table.c

The truth is what the reference engine answers, not a version of the standard: general categories and \\w are
asked from the regex engine inside the `tokenizers` package (it follows Unicode 16). Two more things are noted
for each code point:
  new14  its category is not that of Unicode 14 (Python's unicodedata must be of that version), which is what
         PCRE2 10.40 to 10.42 have;
  new9   it was not assigned in Unicode 9 (asked from perl), the version of the reference's normal forms.
--check compares with a list of `class first last` lines.

Needs: the Python package tokenizers, Python 3.11 (unicodedata 14.0), perl with Unicode::UCD."""
import argparse
import subprocess
import sys
import unicodedata

from tokenizers import Regex, pre_tokenizers

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn").split()
POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(map(chr, POINTS))
# The engine's \w holds these for a reason of its own (Latin-1 digits); the C code adds them where it is asked.
WORD_QUIRKS = {0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE}


def matched(pattern):
    """The code points that pattern, one or more of a class, matches."""
    keep = bytearray(b"\1") * len(POINTS)
    for _, (first, last) in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(TEXT):
        keep[first:last] = bytes(last - first)
    return [c for c, k in zip(POINTS, keep) if k]


def assigned_in_9():
    out = subprocess.run(["perl", "-MUnicode::UCD=prop_invlist", "-e", 'print join(",",prop_invlist("Present_In=9.0"))'],
                         capture_output=True, check=True, text=True).stdout
    bounds = list(map(int, out.split(",")))
    inside = set()
    for first, end in zip(bounds[::2], bounds[1::2] + [0x110000]):
        inside.update(range(first, end))
    return inside


def check(path, category):
    groups = {"L": "L", "M": "M", "N": "N", "P": "P", "S": "S"}
    want = {}
    for line in open(path):
        if not line.startswith("#"):
            name, first, last = line.split()
            want.setdefault(name, set()).update(range(int(first, 16), int(last, 16) + 1))
    for name, points in want.items():
        if name == "White_Space":
            have = set(matched(r"\s+"))
        else:
            have = {c for c in POINTS if (category[c][0] == name if name in groups else category[c] == name)}
        if have != points:
            sys.exit(f"{path}: {name} differs at {sorted(have ^ points)[:5]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check")
    args = parser.parse_args()
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    category = {c: "Cs" for c in range(0xD800, 0xE000)}
    for name in CATEGORIES:
        if name != "Cs":
            category.update((c, name) for c in matched(r"\p{%s}+" % name))
    if args.check:
        check(args.check, category)
    word = set(matched(r"\w+")) - WORD_QUIRKS
    old = assigned_in_9()
    runs, last = [], None
    for c in range(0x110000):
        new14 = unicodedata.category(chr(c)) != category[c]
        if new14 and unicodedata.category(chr(c)) != "Cn" and unicodedata.category(chr(c))[0] != category[c][0]:
            sys.exit(f"U+{c:04X} moved from {unicodedata.category(chr(c))} to {category[c]}: the C code only adds")
        value = CATEGORIES.index(category[c]) | (c in word) << 5 | new14 << 6 | (c not in old) << 7
        if value != last:
            runs.append(c << 8 | value)
            last = value
    print("/* Written by tools/unicode/make_table.py; do not edit. */")
    print('#include "text/unicode.h"\n')
    print("/* code point << 8 | new9 << 7 | new14 << 6 | word << 5 | category; each run goes up to the next. */")
    print("/* clang-format off */")
    print("const uint32_t ie_unicode_runs[] = {")
    for i in range(0, len(runs), 9):
        print("  " + ", ".join(f"0x{r:X}" for r in runs[i:i + 9]) + ",")
    print("};\n/* clang-format on */")
    print("const size_t ie_unicode_run_count = sizeof ie_unicode_runs / sizeof ie_unicode_runs[0];")


main()
