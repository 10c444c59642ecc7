"""Adapters against PEFT, both ways: those that PEFT writes in Choir, those that Choir trains in PEFT.

Logits in float32; the limit is that of logits.py, and an adapter that does nothing fails, too.
"""
import json
import os
import subprocess
import tempfile

import torch

from gpu_check import build, logits, programs
from gpu_check.report import Skipped

KINDS = ["lora", "rslora", "dora", "ia3"]
TARGETS = ["q_proj", "k_proj", "v_proj", "down_proj"]
# Less than that, and the adapter has not been there.
LEAST_EFFECT = 20 * logits.WIDE


def config_of(kind):
    """PEFT's configuration of a kind."""
    from peft import IA3Config, LoraConfig
    if kind == "ia3":
        return IA3Config(task_type="CAUSAL_LM", target_modules=TARGETS, feedforward_modules=["down_proj"])
    return LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=TARGETS, use_rslora=kind == "rslora",
                      use_dora=kind == "dora")


def make_with_peft(model, kind, folder):
    """A random adapter of a kind, stored by PEFT; returns the adapted model."""
    from peft import get_peft_model
    torch.manual_seed(3)
    adapted = get_peft_model(model, config_of(kind))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn_like(parameter)
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(0.1 * noise)
            else:  # scales: near what they begin with
                parameter.mul_(1 + 0.1 * noise)
    adapted.save_pretrained(folder)
    return adapted.eval()


def with_ids(folder, rows, scratch):
    """A folder with the model and the ids that gpu_step trains on."""
    for name in ("config.json", "model.safetensors"):
        os.symlink(os.path.join(os.path.abspath(folder), name), os.path.join(scratch, name))
    with open(os.path.join(scratch, "ids.json"), "w") as file:
        json.dump(rows, file)
    return scratch


def compare(add, name, got, truth, base):
    """Equal logits, and others than the base's."""
    effect = (truth - base).abs().max().item()
    if effect < LEAST_EFFECT * max(1.0, base.abs().max().item()):
        add(name, False, f"the adapter moves logits by {effect:.1e} only: nothing was compared")
        return
    logits.compare_wide(add, name, got, truth, logits.WIDE)


def train_with_choir(folder, kind, device, out):
    """An adapter of a kind, trained and stored by Choir."""
    done = subprocess.run([build.program("gpu_step"), "adapter", folder, device, kind, out], capture_output=True,
                          text=True, env=build.program_environment(), timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"gpu_step adapter {kind}: {done.stderr.strip()[-2000:]}")


def run(options, add):
    """Each kind, both ways, on the golden Llama."""
    folders = [folder for folder in logits.golden_models() if os.path.basename(folder) == "llama"]
    if not folders:
        raise Skipped("no golden data; --deps with golden/ or CHOIR_GOLDEN_DIR names it")
    folder = folders[0]
    _, rows, _ = logits.rows_of(folder)
    try:
        import peft
        have = True
    except ImportError:
        have = False
        add("PEFT", None, "skipped: no peft; Choir reads its own adapters back")
    base = torch.tensor(programs.last_logits(folder, rows, options.device, True)[0])
    for kind in KINDS:
        if have:
            with tempfile.TemporaryDirectory() as scratch:
                adapted = make_with_peft(logits.load(folder, torch.float32, options.device), kind, scratch)
                truth = logits.transformers_logits(adapted, rows, options.device)
                got = torch.tensor(programs.last_logits(folder, rows, options.device, True, scratch)[0])
                compare(add, f"{kind}: PEFT's in Choir", got, truth, base)
        with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as out:
            train_with_choir(with_ids(folder, [row for row in rows if len(row) > 32], scratch), kind, options.device,
                             out)
            got = torch.tensor(programs.last_logits(folder, rows, options.device, True, out)[0])
            if have:
                model = logits.load(folder, torch.float32, options.device)
                adapted = peft.PeftModel.from_pretrained(model, out).eval()
                theirs = logits.transformers_logits(adapted, rows, options.device)
                compare(add, f"{kind}: Choir's in PEFT", theirs, got, base)
            else:
                effect = (got - base).abs().max().item()
                add(f"{kind}: Choir's own", effect > 0.01, f"moves logits by {effect:.2f}")
