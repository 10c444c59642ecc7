"""Logits of the golden models by choir-model against transformers on the same device.

In float32 both compute the same sums in another order: a thousand float32 roundings of 6e-8 with what attention's
float32 kernels (products of three TF32 ones) add stay below 5e-4 of the largest logit. In bfloat16 every activation is
rounded to 8 bits, by each program in other places, so that neither is the other's truth: Choir's distance (root mean
square) from transformers' float32 logits may be at most twice that of transformers' own bfloat16 ones, or one bfloat16
rounding (2^-8) of the logits if that is more. Routers of mixtures flip by a hair there: three times.
"""
import glob
import json
import os

import torch

from gpu_check import build, programs
from gpu_check.report import Skipped

WIDE = 5e-4
HALF_FACTOR = {"mixtral": 3.0}
HALF_FLOOR = 2.0 ** -8
# The files' own logits come from a CPU, in float32.
GOLDEN = 5e-4


def golden_models():
    """Folders of golden models."""
    root = build.program_environment().get("CHOIR_GOLDEN_DIR")
    folders = sorted(glob.glob(os.path.join(root, "arch", "*"))) + [os.path.join(root, "stories260k")] if root else []
    return [folder for folder in folders if os.path.exists(os.path.join(folder, "model.safetensors"))]


def rows_of(folder):
    """Ids to compute: of the golden file where it has some, in several lengths."""
    with open(os.path.join(folder, "config.json")) as file:
        vocabulary = json.load(file)["vocab_size"]
    with open(os.path.join(folder, "expected.json")) as file:
        expected = json.load(file)
    generator = torch.Generator().manual_seed(7)
    rows = expected.get("ids") or []
    more = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in (3, 17, 64, 100)]
    return rows, more, expected.get("logits_last")


def transformers_logits(model, rows, device):
    """The same from a transformers model, float32 on the CPU."""
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([row], device=device)).logits[0, -1].float().cpu()
                            for row in rows])


def load(folder, dtype, device):
    """A transformers model."""
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()


def rms(x):
    """Root mean square."""
    return x.double().pow(2).mean().sqrt().item()


def compare_wide(add, name, got, truth, limit):
    """A row: largest difference, relative to the largest logit (or 1)."""
    apart = (got - truth).abs().max().item() / max(1.0, truth.abs().max().item())
    add(name, apart <= limit, f"largest difference {apart:.1e} of the largest logit (at most {limit:.0e})",
        difference=apart, limit=limit)


def compare_half(add, name, got, theirs, truth, factor):
    """A row: Choir's distance from the truth beside that of transformers."""
    scale = rms(truth)
    ours, usual = rms(got - truth) / scale, rms(theirs - truth) / scale
    limit = max(factor * usual, HALF_FLOOR)
    add(name, ours <= limit,
        f"{ours:.1e} from the float32 logits, transformers' bfloat16 {usual:.1e} (at most {limit:.1e})",
        difference=ours, transformers=usual, limit=limit)


def run(options, add):
    """Each golden model, in float32 and, on CUDA, in bfloat16."""
    models = golden_models()
    if not models:
        raise Skipped("no golden data; --deps with golden/ or CHOIR_GOLDEN_DIR names it")
    try:
        import transformers  # noqa: F401
        have = True
    except ImportError:
        have = False
        add("transformers", None, "skipped: no transformers; compared with the golden files alone")
    for folder in models:
        name = os.path.basename(folder)
        rows, more, expected = rows_of(folder)
        every = rows + more
        wide = torch.tensor(programs.last_logits(folder, every, options.device, True)[0])
        if expected:
            compare_wide(add, f"{name} fp32, golden file", wide[:len(rows)], torch.tensor(expected), GOLDEN)
        if not have:
            continue
        truth = transformers_logits(load(folder, torch.float32, options.device), every, options.device)
        compare_wide(add, f"{name} fp32, transformers", wide, truth, WIDE)
        if options.device == "cuda":
            half = torch.tensor(programs.last_logits(folder, every, "cuda", False)[0])
            theirs = transformers_logits(load(folder, torch.bfloat16, "cuda"), every, "cuda")
            compare_half(add, f"{name} bf16, transformers", half, theirs, truth, HALF_FACTOR.get(name, 2.0))
