#!/usr/bin/env python3
"""The demo's tables.

    demo_table.py topics FILE.jsonl    which topics a data file holds
    demo_table.py table <EVENTS        held-out loss per client before and after, and
                                       bytes moved, from the lines of choir-audit export
"""
import collections
import json
import sys


def topics(path):
    counts = collections.Counter()
    with open(path, encoding="utf-8") as file:
        for line in file:
            counts[json.loads(line)["topic"]] += 1
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def table(lines):
    before, after, up, down, rounds = {}, {}, collections.Counter(), collections.Counter(), 0
    for line in lines:
        record = json.loads(line)["record"]
        if "evaluation_accepted" in record:
            event = record["evaluation_accepted"]
            report = event["report"]
            tokens = int(report.get("tokens", 0))
            down[event["client"]] += int(report.get("bytes_downloaded", 0))
            if tokens:
                loss = report.get("loss_sum", 0.0) / tokens
                before.setdefault(event["client"], loss)
                after[event["client"]] = loss
        elif "update_accepted" in record:
            event = record["update_accepted"]
            up[event["client"]] += int(event["report"]["update"]["size"])
            down[event["client"]] += int(event["report"].get("bytes_downloaded", 0))
        elif "round_committed" in record:
            rounds += 1
    print(f"{rounds} rounds committed")
    print(f"{'client':<12}{'held-out loss before':>22}{'after':>10}{'MB up':>10}{'MB down':>10}")
    for client in sorted(before):
        print(f"{client:<12}{before[client]:>22.4f}{after[client]:>10.4f}"
              f"{up[client] / 1e6:>10.2f}{down[client] / 1e6:>10.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["topics"]:
        print(topics(sys.argv[2]))
    elif sys.argv[1:2] == ["table"]:
        table(sys.stdin)
    else:
        print(__doc__)
        sys.exit(2)
