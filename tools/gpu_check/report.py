"""What was found: rows of a table, and one JSON document that is written anew after each part."""
import json
import os
import platform
import subprocess
import time
import traceback

import torch


class Skipped(Exception):
    """A part cannot run here; the message says why."""


def device_name(device):
    """What computes, in words."""
    if device == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return platform.processor() or platform.machine()


def versions():
    """Of what is compared with."""
    found = {"torch": torch.__version__, "cuda": torch.version.cuda}
    for name in ("transformers", "peft"):
        try:
            found[name] = __import__(name).__version__
        except ImportError:
            found[name] = None
    return found


class Report:
    """Runs parts and keeps what they say. A part gets the options and an `add` function: add(name, ok, text,
    **figures) makes a row; ok None: a figure without a judgement."""

    def __init__(self, options):
        self.options = options
        self.folder = options.out
        os.makedirs(self.folder, exist_ok=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        self.document = {"device": device_name(options.device), "quick": options.quick, "commit": commit,
                         "versions": versions(), "parts": {}}

    def run(self, part, function):
        """Runs one part; what it raises is its failure, not that of the others."""
        begin = time.time()
        rows = []

        def add(name, ok, text, **figures):
            rows.append({"name": name, "ok": ok, "text": text, **figures})
            mark = {True: "ok", False: "FAILED", None: "-"}[ok]
            print(f"  {part:9} {mark:7} {name}: {text}", flush=True)

        entry = {"rows": rows}
        try:
            function(self.options, add)
        except Skipped as reason:
            entry["skipped"] = str(reason)
            print(f"  {part:9} skipped: {reason}", flush=True)
        except Exception as error:  # the other parts go on
            entry["error"] = "".join(traceback.format_exception_only(type(error), error)).strip()
            entry["trace"] = traceback.format_exc()
            print(f"  {part:9} FAILED  {entry['error']}", flush=True)
        entry["seconds"] = round(time.time() - begin, 1)
        self.document["parts"][part] = entry
        with open(os.path.join(self.folder, "gpu-check.json"), "w") as file:
            json.dump(self.document, file, indent=1)

    def failed(self):
        """Whether anything was wrong."""
        return any("error" in part or any(row["ok"] is False for row in part["rows"])
                   for part in self.document["parts"].values())

    def print_table(self):
        """One line for each part."""
        print(f"\n{self.document['device']}, " +
              ", ".join(f"{name} {version or 'missing'}" for name, version in self.document["versions"].items()))
        for name, part in self.document["parts"].items():
            count = lambda ok: sum(row["ok"] is ok for row in part["rows"])
            line = f"{count(True)} ok, {count(False)} failed, {count(None)} figures"
            if "skipped" in part:
                line = f"skipped: {part['skipped']}"
            if "error" in part:
                line = f"FAILED: {part['error']}"
            print(f"{name:10} {part['seconds']:7.1f} s  {line}")
        print(f"{self.folder}/gpu-check.json has all of it")
