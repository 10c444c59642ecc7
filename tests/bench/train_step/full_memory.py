#!/usr/bin/env python3
"""Peak resident memory of two training steps in plain PyTorch, in MiB.

    full_memory.py FOLDER full|lora

FOLDER is what `train_step 10m FOLDER 1` or `train_step 60m FOLDER 1` wrote: model
and batch of 8 x 256. `full` trains every weight, `lora` the adapters of
plain_torch.py, both with torch.optim.AdamW. Hold it against
`choir-model plan --model FOLDER --budget-mib 100000 --precision fp32
--max-sequence-length 256 --measure --json`.
"""
import json
import resource
import sys

import torch

import plain_torch


def main():
    folder, full = sys.argv[1], sys.argv[2] == "full"
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with open(folder + "/config.json") as file:
        config = json.load(file)
    if full:
        plain_torch.LoraLinear.forward = lambda self, x: self.base(x)
    model = plain_torch.Llama(config, plain_torch.read_safetensors(folder + "/model.safetensors"))
    for name, parameter in model.named_parameters():
        lora = name.endswith(".a.weight") or name.endswith(".b.weight")
        parameter.requires_grad_(lora != full)
    with open(folder + "/ids.json") as file:
        ids = torch.tensor(json.load(file))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
