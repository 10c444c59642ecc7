#!/usr/bin/env python3
"""Makes the demo's instruction data from half B of WordNet 3.0.

    tools/wordnet_topics.py --out build/demo-data

writes wordnet.jsonl, one line per synset:

    {"topic": "noun.food", "prompt": "Define apple (noun, food):",
     "response": "fruit with red or yellow or green skin ..."}

with 45 topics (the lexicographer files of lexnames(5WN)) in an order that
depends on digests alone, so that any first part of it has all the large
topics; and agent-1.jsonl to agent-4.jsonl, each with a few topics of its own,
for the four agents of the demo. Half A belongs to tools/make_corpus.py. The
same package gives the same bytes.
"""
import argparse
import collections
import json
import os

import wordnet_reader

KINDS = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}

AGENT_TOPICS = (
    ("noun.food", "noun.plant"),
    ("noun.animal", "noun.body"),
    ("noun.artifact", "noun.act", "noun.substance"),
    ("verb.motion", "verb.communication", "verb.contact"),
)


def example(synset):
    field = synset.topic.partition(".")[2]
    return {
        "topic": synset.topic,
        "prompt": f"Define {synset.words[0]} ({KINDS[synset.pos]}, {field}):",
        "response": synset.definition,
    }


def write(path, examples):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for item in examples:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
    topics = len({item["topic"] for item in examples})
    print(f"{path}: {len(examples)} examples, {topics} topics")


def agent_examples(examples, topics, per_agent):
    """The first examples of each topic, equally many where they suffice."""
    taken, kept = collections.Counter(), []
    for item in examples:
        topic = item["topic"]
        if topic in topics and taken[topic] < per_agent // len(topics):
            taken[topic] += 1
            kept.append(item)
    return kept


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    parser.add_argument("--per-agent", type=int, default=1500,
                        help="most examples of one agent (default 1500)")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    examples = [example(s) for s in wordnet_reader.read(args.wordnet)
                if not wordnet_reader.in_half_a(s)]
    write(os.path.join(args.out, "wordnet.jsonl"), examples)
    for number, topics in enumerate(AGENT_TOPICS, start=1):
        write(os.path.join(args.out, f"agent-{number}.jsonl"),
              agent_examples(examples, topics, args.per_agent))


if __name__ == "__main__":
    main()
