#!/usr/bin/env python3
"""Checks that every source stands as clang-format 14 leaves it (.clang-format);
later versions break some lines elsewhere, so only that one is asked. Run by
ctest under the label "lint".

    tools/check_format.py [--fix]       exit 0: clean, 1: findings, 77: no clang-format 14
    tools/check_format.py --self-test   a badly formatted file must be found
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
ROOMS = ["base", "client", "coordinator", "model", "privacy", "proto", "sim", "tests"]
VERSION = 14


def find_formatter():
    for name in (f"clang-format-{VERSION}", "clang-format"):
        path = shutil.which(name)
        if not path:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        if re.search(rf"version {VERSION}\.", said):
            return path
    return None


def sources():
    for room in ROOMS:
        for folder, _, names in os.walk(os.path.join(ROOT, room)):
            yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith((".h", ".cc")))


def badly_formatted(formatter, files):
    """The files that the formatter would change."""
    style = "--style=file:" + os.path.join(ROOT, ".clang-format")

    def ask(batch):
        run = subprocess.run([formatter, style, "--dry-run", *batch], capture_output=True, text=True, check=True)
        return re.findall(r"^(.*?):\d+:\d+: warning:", run.stderr, re.MULTILINE)

    batches = [files[i:i + 20] for i in range(0, len(files), 20)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return sorted({path for found in pool.map(ask, batches) for path in found})


def self_test(formatter):
    with tempfile.TemporaryDirectory() as folder:
        texts = {"good.cc": "int F() { return 1; }\n", "bad.cc": "int  F( ) {return 1;}\n"}
        for name, text in texts.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        found = badly_formatted(formatter, [os.path.join(folder, name) for name in texts])
    return [] if [os.path.basename(path) for path in found] == ["bad.cc"] else [f"found {found}, not bad.cc alone"]


def main():
    formatter = find_formatter()
    if formatter is None:
        print(f"clang-format {VERSION} is not installed: nothing was checked")
        return 77
    if sys.argv[1:] == ["--self-test"]:
        findings = self_test(formatter)
    else:
        findings = badly_formatted(formatter, list(sources()))
        if sys.argv[1:] == ["--fix"] and findings:
            subprocess.run([formatter, "-i", *findings], check=True)
    for finding in findings:
        print(os.path.relpath(finding, ROOT) if os.path.isabs(finding) else finding)
    print(f"{len(findings)} findings" + ("; tools/check_format.py --fix mends them" if findings else ""))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
