"""Reads the WordNet 3.0 database (Debian package wordnet-base).

Format: wndb(5WN); lexicographer files: lexnames(5WN). The synsets are divided
into two halves by the SHA-256 of their part of speech and offset: half A is
for pretraining a base model, half B for federated tuning, so that the demo
never tunes on what the base model has read.
"""
import collections
import hashlib
import os
import re

LEXNAMES = """adj.all adj.pert adv.all noun.Tops noun.act noun.animal
noun.artifact noun.attribute noun.body noun.cognition noun.communication
noun.event noun.feeling noun.food noun.group noun.location noun.motive
noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process
noun.quantity noun.relation noun.shape noun.state noun.substance noun.time
verb.body verb.change verb.cognition verb.communication verb.competition
verb.consumption verb.contact verb.creation verb.emotion verb.motion
verb.perception verb.possession verb.social verb.stative verb.weather
adj.ppl""".split()

Synset = collections.namedtuple(
    "Synset", "key pos topic words definition examples hypernyms digest")


def _words(fields, count):
    words = []
    for i in range(count):
        word = re.sub(r"\((a|p|ip)\)$", "", fields[4 + 2 * i])
        words.append(word.replace("_", " "))
    return words


def _gloss(text):
    """Splits a gloss into its definition and its quoted examples."""
    text = text.strip()
    examples = [e.strip() for e in re.findall(r'"([^"]+)"', text)]
    definition = re.split(r'(?:^|[;:,]?\s+)"', text, maxsplit=1)[0]
    return definition.strip().rstrip(";:,").strip(), examples


def _parse(line, letter):
    data, _, gloss = line.partition("|")
    fields = data.split()
    count = int(fields[3], 16)
    pointers = fields[4 + 2 * count + 1:]
    hypernyms = []
    for i in range(int(fields[4 + 2 * count])):
        symbol, offset = pointers[4 * i], pointers[4 * i + 1]
        if symbol in ("@", "@i"):
            hypernyms.append(letter + offset)
    definition, examples = _gloss(gloss)
    key = letter + fields[0]
    return Synset(key, letter, LEXNAMES[int(fields[1])], _words(fields, count),
                  definition, examples, hypernyms,
                  hashlib.sha256(key.encode()).hexdigest())


def read(folder="/usr/share/wordnet"):
    """All synsets with a definition, in the order of their digests."""
    synsets = []
    for name, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"),
                         ("adv", "r")):
        path = os.path.join(folder, "data." + name)
        if not os.path.exists(path):
            raise SystemExit(f"error: {path} not found; install wordnet-base")
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.startswith("  "):
                    synset = _parse(line, letter)
                    if synset.definition:
                        synsets.append(synset)
    return sorted(synsets, key=lambda s: s.digest)


def in_half_a(synset):
    return int(synset.digest[-1], 16) % 2 == 0
