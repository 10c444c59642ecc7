#!/usr/bin/env python3
"""Checks who includes whom, between rooms and inside of them, that foreign headers
stay with their owners, that parts without I/O stay so, and how long files and
functions are. Run by ctest under the label "lint".

    tools/check_layers.py [REPOSITORY]       exit 0: clean, 1: findings
    tools/check_layers.py --self-test        every rule must catch a known-bad case
"""
import os
import re
import sys
import tempfile

# Folder -> folders it may include. Each may include itself.
LAYERS = {
    "base": [],
    "proto": ["base"],
    "model": ["base", "proto"],
    "privacy": ["base", "proto"],
    "client": ["base", "proto", "model", "privacy"],
    "coordinator": ["base", "proto", "model", "privacy"],
    "sim": ["base", "proto", "model", "privacy", "client", "coordinator"],
    "tests": ["base", "proto", "model", "privacy", "client", "coordinator", "sim"],
}
# The same inside of rooms: part -> parts of its own room that it may include.
PARTS = {
    "client/agent": ["client", "client/data", "client/session"],
    "client/data": [],
    "client/main": ["client/agent", "client/rpc"],
    "client/rpc": ["client"],
    "client/session": [],
    "coordinator/aggregate": [],
    "coordinator/audit": ["coordinator/aggregate", "coordinator/selection", "coordinator/store"],
    "coordinator/engine": ["coordinator/selection"],
    "coordinator/main": ["coordinator/audit", "coordinator/rpc", "coordinator/store"],
    "coordinator/registry": [],
    "coordinator/rpc": ["coordinator/registry", "coordinator/runner", "coordinator/store"],
    "coordinator/runner": ["coordinator/aggregate", "coordinator/engine", "coordinator/store"],
    "coordinator/selection": [],
    "coordinator/store": [],
    "model/adapter": ["model/checkpoint", "model/tokenizer"],
    "model/checkpoint": ["model/quantize", "model/tokenizer"],
    "model/export": ["model/adapter", "model/checkpoint"],
    "model/kernels": ["model/quantize"],
    "model/objective": ["model/tokenizer", "model/torch", "model/transformer"],
    "model/quantize": [],
    "model/tokenizer": [],
    "model/torch": [],
    "model/training": ["model", "model/adapter", "model/checkpoint", "model/kernels", "model/objective", "model/quantize",
                       "model/tokenizer", "model/torch", "model/transformer"],
    "model/transformer": ["model/adapter", "model/checkpoint", "model/kernels", "model/quantize", "model/torch"],
    "model": ["model/adapter", "model/checkpoint", "model/export", "model/kernels", "model/quantize", "model/tokenizer", "model/torch",
              "model/transformer"],
    "privacy/crypto": [],
    "privacy/secagg": ["privacy/crypto"],
    "sim/experiment": ["sim/partition"],
    "sim/main": ["sim/experiment"],
    "sim/partition": [],
}
# Parts without I/O, and headers that would bring it in.
PURE = ["coordinator/aggregate", "coordinator/engine", "coordinator/registry", "coordinator/selection", "proto/codec"]
IMPURE = r"base/(clock|files|log|process|scoped_fd|thread_pool)\.h|(fstream|thread|unistd\.h|sys/.*)$"
# Header prefix -> path patterns of the files that may include it.
OWNERS = {
    r"(torch|ATen|c10|caffe2)/": [r"^model/", r"^tests/(unit|integration|bench)/model/"],
    r"sqlite3\.h": [r"^coordinator/store/", r"^tests/.*(store|audit)"],
    r"openssl/": [r"^privacy/crypto/", r"^base/(sha256|secure_random)\.cc$", r"^tests/unit/crypto/", r"^tests/bench/secagg/raw_cipher\.cc$"],
    r"grpc(pp)?/|.*\.grpc\.pb\.h": [r"/(rpc|main)/", r"^tests/(integration|e2e|bench)/", r"^tests/unit/rpc/"],
    r"toml\+\+/": [r"^proto/config/"],
}
HEADER_LINES, SOURCE_LINES, FUNCTION_LINES = 250, 600, 60
INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]')


def function_lengths(lines):
    """Yields (first line, length) of every body whose closing brace stands in
    the first column: that is how clang-format leaves functions."""
    start = None
    for number, line in enumerate(lines, 1):
        if re.match(r"^[A-Za-z~].*[^;]$|^[A-Za-z].*\{$", line) and not line.startswith(
            ("namespace", "class", "struct", "enum", "union", "#", "//", "extern", "using")):
            if start is None:
                start = number
        if line.startswith("}"):
            if start is not None and line == "}":
                yield start, number - start + 1
            start = None
        elif line == "" and start is not None and not any(
                "{" in earlier for earlier in lines[start - 1:number]):
            start = None


def check_file(path, text):
    findings = []
    room = path.split("/")[0]
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(1)
        target = header.split("/")[0]
        if target in LAYERS and target != room and target not in LAYERS[room]:
            findings.append(f"{path}:{number}: {room}/ must not include {header}")
        part, target_part = os.path.dirname(path), os.path.dirname(header)
        if part in PARTS and target == room and target_part not in [part] + PARTS[part]:
            findings.append(f"{path}:{number}: {part}/ must not include {header}")
        if part in PURE and re.match(IMPURE, header):
            findings.append(f"{path}:{number}: {part}/ does no I/O, hence not {header}")
        for prefix, owners in OWNERS.items():
            if re.match(prefix, header) and not any(re.search(o, path) for o in owners):
                findings.append(f"{path}:{number}: {header} belongs to {', '.join(owners)}")
    if room != "tests":
        most = HEADER_LINES if path.endswith(".h") else SOURCE_LINES
        if len(lines) > most and "table" not in os.path.basename(path):
            findings.append(f"{path}: {len(lines)} lines; at most {most}")
        if path.endswith(".cc"):
            for first, length in function_lengths(lines):
                if length > FUNCTION_LINES + 2:
                    findings.append(f"{path}:{first}: a function of {length} lines; at most {FUNCTION_LINES}")
    if path.endswith(".h") and "#ifndef CHOIR_" not in text:
        findings.append(f"{path}: no include guard CHOIR_..._H_")
    return findings


def check_tree(root):
    findings = []
    for room in LAYERS:
        for folder, _, names in os.walk(os.path.join(root, room)):
            for name in sorted(names):
                if name.endswith((".h", ".cc")):
                    full = os.path.join(folder, name)
                    with open(full, encoding="utf-8") as file:
                        findings += check_file(os.path.relpath(full, root), file.read())
    return findings


def self_test():
    guard = "#ifndef CHOIR_X_H_\n"
    bad = {
        "base/a.cc": '#include "model/training/trainer.h"\n',
        "client/a.cc": '#include "coordinator/engine/engine.h"\n',
        "coordinator/a.cc": '#include "client/data/dataset.h"\n',
        "model/a.cc": '#include "sim/x.h"\n',
        "sim/a.cc": "#include <torch/torch.h>\n",
        "coordinator/engine/a.cc": "#include <sqlite3.h>\n",
        "coordinator/engine/c.cc": '#include "coordinator/store/journal.h"\n',
        "coordinator/engine/d.cc": '#include "base/clock.h"\n',
        "coordinator/selection/a.cc": "#include <fstream>\n",
        "coordinator/b.cc": "#include <openssl/evp.h>\n",
        "coordinator/engine/b.cc": "#include <grpcpp/grpcpp.h>\n",
        "base/long.h": guard + "\n" * HEADER_LINES,
        "base/long.cc": "\n" * (SOURCE_LINES + 1),
        "base/function.cc": "int F() {\n" + "  x();\n" * 70 + "}\n",
        "base/unguarded.h": "int x;\n",
    }
    good = {
        "sim/a.cc": '#include "client/data/dataset.h"\n#include "coordinator/engine/engine.h"\n',
        "coordinator/store/a.cc": "#include <sqlite3.h>\n",
        "coordinator/rpc/a.cc": '#include "coordinator/runner/job_runner.h"\n#include "base/clock.h"\n',
        "base/a.h": guard,
        "base/b.cc": "int F() {\n" + "  x();\n" * 50 + "}\n",
    }
    failed = [f"missed: {path}" for path, text in bad.items() if not check_file(path, text)]
    failed += [f"false alarm: {finding}" for path, text in good.items() for finding in check_file(path, text)]
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(os.path.join(root, "base"))
        with open(os.path.join(root, "base", "a.cc"), "w", encoding="utf-8") as file:
            file.write(bad["base/a.cc"])
        if not check_tree(root):
            failed.append("missed: a bad file in a tree")
    return failed


def main():
    if sys.argv[1:] == ["--self-test"]:
        findings = self_test()
    else:
        root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..")
        findings = check_tree(root)
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
