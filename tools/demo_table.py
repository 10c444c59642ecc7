#!/usr/bin/env python3
"""The demo's tables.

    demo_table.py topics FILE.jsonl    which topics a data file holds
    demo_table.py table <EVENTS        held-out loss per client before and after, and
                                       bytes moved, from the lines of choir-audit export
    demo_table.py phases <ROUND        what the coordinator saw of a secure round, from
                                       choir-audit show --round N --json
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
        elif "secure_phase_closed" in record:
            for client in record["secure_phase_closed"].get("clients", []):
                up[client["client"]] += int(client.get("bytes", 0))
        elif "round_committed" in record:
            rounds += 1
    print(f"{rounds} rounds committed")
    print(f"{'client':<12}{'held-out loss before':>22}{'after':>10}{'MB up':>10}{'MB down':>10}")
    for client in sorted(before):
        print(f"{client:<12}{before[client]:>22.4f}{after[client]:>10.4f}"
              f"{up[client] / 1e6:>10.2f}{down[client] / 1e6:>10.2f}")


def phases(text):
    round_ = json.loads(text)["attempts"][-1]
    secure = round_["secure"]
    print(f"round {round_['round']}: {secure['length']} integers modulo 2^{secure['modulus_bits']}, "
          f"sum of {len(round_['survivors'])} clients")
    print(f"{'phase':<16}{'answers':>9}{'dropped':>9}{'kB in all':>12}   what it says of one client")
    said = {
        "advertise_keys": "public keys, signed",
        "share_keys": "shares, encrypted for other clients",
        "masked_input": "numbers that look random",
        "confirm": "a signature over who is in the sum",
        "unmask": "shares of masks, of which too few say anything",
    }
    for phase in round_["phases"]:
        print(f"{phase['phase']:<16}{phase['answers']:>9}{len(phase['dropped']):>9}"
              f"{phase['bytes'] / 1e3:>12.1f}   {said[phase['phase']]}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["topics"]:
        print(topics(sys.argv[2]))
    elif sys.argv[1:2] == ["table"]:
        table(sys.stdin)
    elif sys.argv[1:2] == ["phases"]:
        phases(sys.stdin.read())
    else:
        print(__doc__)
        sys.exit(2)
