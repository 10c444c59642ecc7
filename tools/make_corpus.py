#!/usr/bin/env python3
"""Makes the text on which Choir's own tiny base model is pretrained.

    tools/make_corpus.py --out build/corpus

writes bible.txt (King James Bible, packages bible-kjv and bible-kjv-text) and
wordnet.txt (definitions, examples and kinships of half A of WordNet 3.0,
package wordnet-base): paragraphs of English, parted by blank lines. The same
packages give the same bytes. Half B is left to tools/wordnet_topics.py.
"""
import argparse
import os
import re
import subprocess

import wordnet_reader

PARAGRAPH_CHARACTERS = 480


def bible_paragraphs():
    """Whole verses, gathered to paragraphs that stay inside a chapter."""
    try:
        dump = subprocess.run(["bible", "-f"], input="gen1:1-rev22:21\n",
                              capture_output=True, text=True, check=True,
                              encoding="latin-1").stdout
    except FileNotFoundError:
        raise SystemExit("error: program bible not found; install bible-kjv "
                         "and bible-kjv-text")
    paragraphs, verses, chapter, seen = [], [], None, set()
    for line in dump.splitlines():
        line = re.sub(r"^bible\(KJV\) \[[^\]]*\]> ", "", line)
        match = re.match(r"((?:[123])?[A-Za-z]+\d+):(\d+) (.*)$", line)
        if not match or (match[1], match[2]) in seen:
            continue
        seen.add((match[1], match[2]))
        length = sum(len(verse) + 1 for verse in verses)
        if verses and (match[1] != chapter or
                       length + len(match[3]) > PARAGRAPH_CHARACTERS):
            paragraphs.append(" ".join(verses))
            verses = []
        chapter = match[1]
        verses.append(match[3].strip())
    paragraphs.append(" ".join(verses))
    if len(seen) < 31000:
        raise SystemExit(f"error: only {len(seen)} verses found of 31102")
    return paragraphs


def article(word):
    return "an" if word[:1].lower() in "aeiou" else "a"


def capitalised(text):
    return text[:1].upper() + text[1:]


def sentence(text):
    text = capitalised(text.strip())
    return text if text.endswith((".", "!", "?")) else text + "."


def definition_sentence(synset, choice):
    word, definition = synset.words[0], synset.definition
    if synset.pos == "n":
        forms = (f"{word}: {definition}",
                 f"{capitalised(word)} means {definition}",
                 f"The word {word} stands for {definition}",
                 f"{capitalised(word)} is {definition}",
                 f"What is {word}? It is {definition}")
    elif synset.pos == "v":
        forms = (f"{word}: {definition}",
                 f"To {word} is to {definition}",
                 f"To {word} means to {definition}",
                 f"The verb {word} means to {definition}",
                 f"What does it mean to {word}? It means to {definition}")
    else:
        forms = (f"{word}: {definition}",
                 f"{capitalised(word)} means {definition}",
                 f"If something is called {word}, it means {definition}",
                 f"{capitalised(word)}, that is, {definition}",
                 f"What does {word} mean? It means {definition}")
    return sentence(forms[choice % len(forms)])


def wordnet_paragraph(synset, by_key):
    choice = int(synset.digest[:8], 16)
    parts = [definition_sentence(synset, choice)]
    if len(synset.words) > 1:
        others = ", ".join(synset.words[1:])
        parts.append((f"Other words for it: {others}.",
                      f"It is also called {others}.",
                      f"One also says {others}.")[choice // 8 % 3])
    parents = [by_key[k] for k in synset.hypernyms if k in by_key]
    if parents and synset.pos == "n":
        kind = parents[0].words[0]
        parts.append(f"It is a kind of {kind}." if choice % 2 else
                     f"{capitalised(article(synset.words[0]))} "
                     f"{synset.words[0]} is {article(kind)} {kind}.")
    elif parents and synset.pos == "v":
        parts.append(f"It is one way to {parents[0].words[0]}.")
    parts += [sentence(example) for example in synset.examples]
    return " ".join(parts)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    half_a = [s for s in wordnet_reader.read(args.wordnet)
              if wordnet_reader.in_half_a(s)]
    by_key = {synset.key: synset for synset in half_a}
    texts = {
        "bible.txt": bible_paragraphs(),
        "wordnet.txt": [wordnet_paragraph(s, by_key) for s in half_a],
    }
    for name, paragraphs in texts.items():
        path = os.path.join(args.out, name)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write("\n\n".join(paragraphs) + "\n")
        print(f"{path}: {len(paragraphs)} paragraphs, "
              f"{os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
