#!/usr/bin/env python3
"""Writes model/tokenizer/unicode_tables.cc from Python's unicodedata.

Run:  python3 tools/make_unicode_tables.py > model/tokenizer/unicode_tables.cc
"""
import sys
import unicodedata


def ranges(initial):
    """Inclusive ranges of code points whose category begins with `initial`."""
    result = []
    for code_point in range(sys.maxunicode + 1):
        if not unicodedata.category(chr(code_point)).startswith(initial):
            continue
        if result and result[-1][1] == code_point - 1:
            result[-1][1] = code_point
        else:
            result.append([code_point, code_point])
    return result


def table(name, initial):
    entries = ["{0x%X, 0x%X}," % tuple(r) for r in ranges(initial)]
    lines, line = [], "   "
    for entry in entries:
        if len(line) + 1 + len(entry) > 80:
            lines.append(line)
            line = "   "
        line += " " + entry
    lines.append(line)
    print("constexpr CodePointRange %s[] = {" % name)
    print("\n".join(lines))
    print("};\n")


print("// Made by tools/make_unicode_tables.py from Unicode %s; do not edit."
      % unicodedata.unidata_version)
print('#include "model/tokenizer/unicode.h"\n')
print("namespace choir::model {\nnamespace {\n")
table("kLetters", "L")
table("kNumbers", "N")
print("""}  // namespace

absl::Span<const CodePointRange> LetterRanges() { return kLetters; }
absl::Span<const CodePointRange> NumberRanges() { return kNumbers; }

}  // namespace choir::model""")
