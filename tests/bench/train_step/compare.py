#!/usr/bin/env python3
"""Times a LoRA training step (r = 8, batch 8 x 256) against plain PyTorch.

    compare.py TRAIN_STEP_PROGRAM [--sizes 10m,60m] [--pairs N] [--threads N]
               [--least RATIO]

Both programs compute the same model with the same number of threads, take turns
step by step, and the first pairs are left out. Prints the medians and the median
ratio of the pairs, by the clock and in processor time; exit code 1 below --least
(of processor time with one thread), 77 without PyTorch for Python.
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
        wall, cpu = self.process.stdout.readline().split()
        return float(wall), float(cpu)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def interpreter_with_torch():
    """Distributions install PyTorch for their own Python, which may not be the first on the path."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0:
            return python
    return None


def compare(program, python, size, pairs, threads):
    env = dict(os.environ, OPENBLAS_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads),
               MKL_NUM_THREADS=str(threads))
    with tempfile.TemporaryDirectory() as folder:
        ours = Side([program, size, folder, str(threads)], env)
        theirs = Side([python, HERE + "/plain_torch.py", folder, str(threads)], env)
        if abs(ours.loss - theirs.loss) > 1e-3:
            sys.exit(f"{size}: the models differ: loss {ours.loss} and {theirs.loss}")
        times = []
        for i in range(pairs + WARM_UP):
            pair = (ours.step(), theirs.step()) if i % 2 == 0 else tuple(reversed((theirs.step(), ours.step())))
            if i >= WARM_UP:
                times.append(pair)
        ours.close()
        theirs.close()
    median = lambda which, kind: statistics.median(pair[which][kind] for pair in times)
    ratio = lambda kind: statistics.median(theirs[kind] / ours[kind] for ours, theirs in times)
    print(f"{size}: {int(ours.what) / 1e6:.1f} M parameters, {threads} thread(s), {pairs} pairs: "
          f"Choir {median(0, 0):.3f} s, PyTorch {theirs.what} {median(1, 0):.3f} s a step, "
          f"{ratio(0):.2f} times as fast; processor time {median(0, 1):.3f} s and {median(1, 1):.3f} s, "
          f"{ratio(1):.2f} times (loss of the base {ours.loss:.5f} and {theirs.loss:.5f})", flush=True)
    # One thread on a busy machine: processor time says more than the clock.
    return ratio(1) if threads == 1 else ratio(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--sizes", default="10m,60m")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.0)
    options = parser.parse_args()
    python = interpreter_with_torch()
    if python is None:
        print("PyTorch for Python is not installed; nothing to compare with")
        sys.exit(77)
    ratios = [compare(options.program, python, size, options.pairs, options.threads) for size in options.sizes.split(",")]
    sys.exit(0 if min(ratios) >= options.least else 1)


if __name__ == "__main__":
    main()
