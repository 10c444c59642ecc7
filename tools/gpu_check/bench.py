"""The LoRA step of a Llama of about a billion parameters against PEFT, in alternating pairs on the same device.

Work of a step, for the fraction of the device's matrix peak: each token passes all P matrix parameters of the frozen
base forward and, for the gradient of its activations alone, backward, 2 operations each: 4 P. The A adapter parameters
get a gradient as well: 6 A. Attention's two products, causal, are half of 4 * layers * tokens * hidden forward, and twice
as much backward: 6 * layers * tokens * hidden in all. What a program computes beyond that does not count.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch

from gpu_check import build, random_model
from gpu_check.report import Skipped

WARM_UP = 3
TARGET = 1.2
# Two programs in bfloat16 on the same random weights, whose loss is about 10.
LOSS_APART = 0.02
HERE = os.path.dirname(os.path.abspath(__file__))


class Side:
    """A program that does a step for each line it reads."""

    def __init__(self, command, log):
        before = used_memory()
        self.log = open(log, "w")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, env=build.program_environment())
        self.start = self.read()
        for _ in range(WARM_UP):
            self.step()
        # Caching allocators keep what they once took: this is the peak.
        self.memory = used_memory() - before

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side of the benchmark ended with code {self.process.wait()}; see {self.log.name}")
        return json.loads(line)

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.log.close()


def used_memory():
    """Bytes of the device that are taken, by whomever; 0 without CUDA."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def matmul_peak(quick):
    """Operations per second of a bfloat16 product of 8192 x 8192 random matrices, the median of 30."""
    n = 1024 if quick else 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for i in range(40):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        a @ b
        end.record()
        end.synchronize()
        if i >= 10:
            times.append(begin.elapsed_time(end) / 1e3)
    return 2.0 * n ** 3 / statistics.median(times)


def work_per_token(sizes, adapter_parameters, tokens):
    """Operations, as the head of this file says."""
    return (4.0 * random_model.matmul_parameters(sizes) + 6.0 * adapter_parameters +
            6.0 * sizes["num_hidden_layers"] * tokens * sizes["hidden_size"])


def in_pairs(ours, theirs, pairs):
    """Seconds of both, step by step in turn; either begins every other pair."""
    times = []
    for i in range(pairs):
        if i % 2 == 0:
            times.append((ours.step(), theirs.step()))
        else:
            second = theirs.step()
            times.append((ours.step(), second))
    return times


class Bench:
    """The batch, and how figures are put."""

    def __init__(self, options, add):
        self.options, self.add = options, add
        small = options.quick or options.device == "cpu"
        self.sizes = random_model.SMALL if small else random_model.LARGE
        self.batch, self.tokens = (2, 64) if small else (8, 1024)
        self.pairs = 3 if options.quick else 15
        self.peak = matmul_peak(options.quick) if options.device == "cuda" else None
        self.work = None

    def figures(self, name, seconds, memory, **more):
        """A row of tokens per second, share of the peak, and memory."""
        rate = self.batch * self.tokens / seconds
        text = f"{seconds * 1e3:.1f} ms a step, {rate:,.0f} tokens/s"
        more.update(seconds=seconds, tokens_per_second=rate)
        if self.peak:
            share = rate * self.work / self.peak
            text += f", {100 * share:.1f} % of the matmul peak, {memory / 2**30:.1f} GiB"
            more.update(share_of_peak=share, memory_bytes=memory)
        self.add(name, None, text, **more)

    def run(self, folder):
        """Choir against each way of PEFT."""
        if self.peak:
            self.add("bf16 matmul peak", None, f"{self.peak / 1e12:.0f} TFLOP/s, measured",
                     operations_per_second=self.peak)
        ours = self.side([build.program("gpu_step"), "bench", folder, self.options.device], "choir")
        self.work = work_per_token(self.sizes, ours.start["adapter_parameters"], self.tokens)
        self.add("model", None, f"{ours.start['parameters'] / 1e6:.0f} M parameters, batch {self.batch} x {self.tokens}, "
                 f"LoRA r = 8 on all linear layers, {self.work / 1e9:.2f} GFLOP a token", **ours.start,
                 work_per_token=self.work)
        try:
            import peft  # noqa: F401
            variants = ["eager"] + ([] if self.options.device == "cpu" else ["compile"])
        except ImportError:
            self.add("PEFT", None, "skipped: no peft")
            variants = []
        if not variants:
            self.figures("Choir", statistics.median(ours.step() for _ in range(self.pairs)), ours.memory)
        for variant in variants:
            theirs = self.side([sys.executable, os.path.join(HERE, "peft_side.py"), folder, self.options.device,
                                variant], "peft-" + variant)
            apart = abs(ours.start["loss"] - theirs.start["loss"])
            self.add(f"the same model ({variant})", apart < LOSS_APART, f"loss {ours.start['loss']:.4f} and "
                     f"{theirs.start['loss']:.4f}")
            times = in_pairs(ours, theirs, self.pairs)
            theirs.close()
            self.figures(f"Choir beside {variant}", statistics.median(a for a, _ in times), ours.memory)
            self.figures(f"PEFT, {variant}", statistics.median(b for _, b in times), theirs.memory)
            ratio = statistics.median(b / a for a, b in times)
            judged = variant == "eager" and not self.options.quick and self.options.device == "cuda"
            self.add(f"Choir against PEFT, {variant}", ratio >= TARGET if judged else None,
                     f"{ratio:.2f} times as fast (median of {self.pairs} pairs" +
                     (f"; at least {TARGET})" if judged else ")"), ratio=ratio, pairs=times)
        ours.close()

    def side(self, command, name):
        """Starts a side, and says how long it took to be ready."""
        begin = time.time()
        side = Side(command, os.path.join(self.options.out, name + ".log"))
        print(f"            {name} is ready after {time.time() - begin:.0f} s", flush=True)
        return side


def run(options, add):
    """Makes the model and compares."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise Skipped("PyTorch finds no CUDA device")
    bench = Bench(options, add)
    with tempfile.TemporaryDirectory() as folder:
        random_model.write(folder, bench.sizes, bench.batch, bench.tokens, options.device)
        bench.run(folder)
