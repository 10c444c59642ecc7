#!/usr/bin/env python3
"""Times a LoRA training step (r = 8, batch 8 x 256) against plain PyTorch.

    compare.py TRAIN_STEP_PROGRAM [--sizes 10m,60m] [--pairs N] [--threads N]
               [--least RATIO]

Both programs compute the same model with the same number of threads, take turns
step by step, and the first pairs are left out. Prints the medians and the median
ratio of the pairs; exit code 1 below --least, 77 without PyTorch for Python.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
WARM_UP = 2


class Side:
    def __init__(self, command, env):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        line = self.process.stdout.readline().split()
        self.what, self.loss = line[0], float(line[1])

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(program, size, pairs, threads):
    env = dict(os.environ, OPENBLAS_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads),
               MKL_NUM_THREADS=str(threads))
    with tempfile.TemporaryDirectory() as folder:
        ours = Side([program, size, folder, str(threads)], env)
        theirs = Side([sys.executable, HERE + "/plain_torch.py", folder, str(threads)], env)
        if abs(ours.loss - theirs.loss) > 1e-3:
            sys.exit(f"{size}: the models differ: loss {ours.loss} and {theirs.loss}")
        times = []
        for i in range(pairs + WARM_UP):
            pair = (ours.step(), theirs.step()) if i % 2 == 0 else tuple(reversed((theirs.step(), ours.step())))
            if i >= WARM_UP:
                times.append(pair)
        ours.close()
        theirs.close()
    ratio = statistics.median(b / a for a, b in times)
    print(f"{size}: {int(ours.what) / 1e6:.1f} M parameters, {threads} thread(s), {pairs} pairs: "
          f"Choir {statistics.median(a for a, _ in times):.3f} s, "
          f"PyTorch {theirs.what} {statistics.median(b for _, b in times):.3f} s a step, "
          f"{ratio:.2f} times as fast (loss of the base {ours.loss:.5f} and {theirs.loss:.5f})", flush=True)
    return ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--sizes", default="10m,60m")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.0)
    options = parser.parse_args()
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch for Python is not installed; nothing to compare with")
        sys.exit(77)
    ratios = [compare(options.program, size, options.pairs, options.threads) for size in options.sizes.split(",")]
    sys.exit(0 if min(ratios) >= options.least else 1)


if __name__ == "__main__":
    main()
