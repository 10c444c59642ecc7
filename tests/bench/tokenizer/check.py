#!/usr/bin/env python3
"""Tokenizers keep their promised speed on plain English, one core.

    check.py TOKENIZER_BENCH_PROGRAM --least MB_PER_SECOND

Makes the text with tools/make_corpus.py and asks for choir-tiny's tokenizer and those of the golden folders, as far as
they are there. Exit code 1 if one is slower, 77 without the packages that the text is made of.
"""
import argparse
import glob
import os
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../.."))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--least", type=float, required=True)
    options = parser.parse_args()
    golden = os.environ.get("CHOIR_GOLDEN_DIR", os.path.join(ROOT, "../shared/golden"))
    folders = [os.path.join(ROOT, "models/choir-tiny")] + sorted(glob.glob(os.path.join(golden, "tokenizers/*/")))
    with tempfile.TemporaryDirectory() as corpus:
        made = subprocess.run([sys.executable, os.path.join(ROOT, "tools/make_corpus.py"), "--out", corpus])
        if made.returncode != 0:
            print("no text to measure with: install bible-kjv, bible-kjv-text and wordnet-base")
            sys.exit(77)
        sys.exit(subprocess.run([options.program, "--least", str(options.least),
                                 os.path.join(corpus, "bible.txt")] + folders).returncode)


if __name__ == "__main__":
    main()
