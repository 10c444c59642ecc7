"""The command line of scripts/gpu-check."""
import argparse
import os
import sys

from gpu_check import pack

PARTS = ["tests", "logits", "adapters", "bench"]


def parse():
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument("--pack", metavar="DIR")
    parser.add_argument("--deps", metavar="DIR")
    parser.add_argument("--out", metavar="DIR", default="build/gpu/out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer tests, a small model in the benchmark")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--run-only", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, of " + ", ".join(PARTS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.parts = options.only.split(",")
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(PARTS)}")
    if options.build_only and options.run_only:
        parser.error("--build-only and --run-only exclude each other")
    return options


def main():
    options = parse()
    if options.pack:
        pack.run(options.pack)
        return 0
    # Only now: packing needs no PyTorch.
    from gpu_check import adapters, bench, build, logits, programs
    from gpu_check.report import Report
    functions = {"tests": programs.run_tests, "logits": logits.run, "adapters": adapters.run, "bench": bench.run}
    if not options.run_only:
        build.run(options)
    if options.build_only:
        return 0
    build.check_built()
    report = Report(options)
    for part in options.parts:
        report.run(part, functions[part])
    report.print_table()
    return 1 if report.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
