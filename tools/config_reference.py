#!/usr/bin/env python3
"""Makes docs/configuration.md from the comments of proto/choir/v1/config.proto.

    tools/config_reference.py            writes docs/configuration.md
    tools/config_reference.py --check    exit 1 if the file is out of date
"""
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
FILES = [
    ("CoordinatorConfig", "coordinator.toml", "choir-coordinator --config coordinator.toml"),
    ("ClientConfig", "client.toml", "choir-client --config client.toml"),
    ("JobConfig", "job.toml", "choir-admin job submit job.toml; also the table [job] of an experiment"),
    ("ExperimentConfig", "experiment.toml", "choir-sim run experiment.toml"),
]


def parse(text):
    messages, comment, name = {}, [], None
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith("// ---"):
            comment = []
        elif stripped.startswith("//"):
            comment.append(stripped[2:].strip())
        elif match := re.match(r"message (\w+) \{", stripped):
            name = match.group(1)
            messages[name] = (" ".join(comment), [])
            comment = []
        elif match := re.match(r"(optional |repeated )?(map<string, string>|\w+) (\w+) = \d+;", stripped):
            label, kind, field = match.groups()
            messages[name][1].append((field, kind, (label or "").strip(), " ".join(comment)))
            comment = []
        elif stripped in ("", "}"):
            comment = []
    return messages


def type_name(kind, label):
    names = {"uint32": "whole number", "uint64": "whole number", "double": "number", "bool": "true/false",
             "string": "text", "map<string, string>": "table of texts"}
    name = names.get(kind, kind)
    return f"list of {name}s" if label == "repeated" else name


def section(messages, message, path, out):
    _, fields = messages[message]
    plain = [field for field in fields if field[1] not in messages]
    if plain:
        if path:
            out.append(f"\n### `[{path}]`\n")
        out.append("| field | type | meaning |\n|---|---|---|")
        last = ""
        for field, kind, label, comment in plain:
            comment = comment or last
            last = comment
            out.append(f"| `{field}` | {type_name(kind, label)} | {comment.replace('|', '/')} |")
    for field, kind, _, _ in fields:
        if kind in messages:
            inner = f"{path}.{field}" if path else field
            if message == "ExperimentConfig" and kind == "JobConfig":
                out.append("\n`[job]` and the tables below it: as in job.toml.")
                continue
            section(messages, kind, inner, out)


def render(text):
    messages = parse(text)
    out = ["# Configuration reference", "",
           "Made from `proto/choir/v1/config.proto` by `tools/config_reference.py`; edit the comments there.", "",
           "Files are TOML. Unknown fields are refused, with the nearest known name. `--set path.to.field=value` "
           "overrides the file; `--check` prints the resolved configuration and ends. Times are text: \"90s\", \"2m30s\"."]
    for message, file, command in FILES:
        out.append(f"\n## {file}\n\n`{command}`\n")
        section(messages, message, "", out)
    return "\n".join(out) + "\n"


def main():
    with open(os.path.join(ROOT, "proto/choir/v1/config.proto"), encoding="utf-8") as file:
        made = render(file.read())
    path = os.path.join(ROOT, "docs/configuration.md")
    if sys.argv[1:] == ["--check"]:
        with open(path, encoding="utf-8") as file:
            if file.read() == made:
                return 0
        print("docs/configuration.md is out of date: run tools/config_reference.py")
        return 1
    with open(path, "w", encoding="utf-8") as file:
        file.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
