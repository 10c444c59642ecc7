"""The side of PEFT in the benchmark: LoRA steps as one writes them with transformers and PEFT.

    peft_side.py FOLDER DEVICE eager|compile

The base in bfloat16 with scaled_dot_product_attention, PEFT's adapters (float32) under autocast, as the Trainer of
transformers does with bf16=True; fused AdamW; gradients clipped to a norm of 1. Prints {"loss", "adapter_parameters"}
of the base, then does one step for each line on stdin and prints {"seconds"}.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def main():
    folder, device, variant = sys.argv[1:]
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").to(device)
    base.config.use_cache = False
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"))
    model.train()
    with open(folder + "/ids.json") as file:
        ids = torch.tensor(json.load(file), device=device)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].reshape(-1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=device == "cuda")

    def loss_of(inputs, targets):
        with torch.autocast(device, torch.bfloat16):
            logits = model(input_ids=inputs).logits
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets)

    with torch.no_grad():
        loss = loss_of(inputs, targets).item()
    print(json.dumps({"loss": loss, "adapter_parameters": sum(p.numel() for p in trained)}), flush=True)
    step_loss = torch.compile(loss_of) if variant == "compile" else loss_of
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in sys.stdin:
        begin = time.perf_counter()
        step_loss(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main()
