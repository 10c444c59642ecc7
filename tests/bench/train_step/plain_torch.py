#!/usr/bin/env python3
"""The other side of compare.py: the same model and step in plain PyTorch, as
one writes it: nn.Linear, LoRA layers beside it, autograd, torch.optim.AdamW.

    plain_torch.py FOLDER THREADS

FOLDER is what train_step wrote. Prints the loss of the base, then does one step
for each line on stdin and prints its seconds, by the clock and of processor time.
"""
import json
import math
import struct
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        part = bytearray(data[8 + size + begin:8 + size + end])
        tensors[name] = torch.frombuffer(part, dtype=torch.float32).reshape(entry["shape"])
    return tensors


class LoraLinear(nn.Module):
    def __init__(self, weight, rank, alpha):
        super().__init__()
        self.base = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.base.weight = nn.Parameter(weight, requires_grad=False)
        self.a = nn.Linear(weight.shape[1], rank, bias=False)
        self.b = nn.Linear(rank, weight.shape[0], bias=False)
        nn.init.zeros_(self.b.weight)
        self.scale = alpha / rank

    def forward(self, x):
        return self.base(x) + self.b(self.a(x)) * self.scale


class RmsNorm(nn.Module):
    def __init__(self, weight, eps):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


class Block(nn.Module):
    def __init__(self, config, tensors, prefix, lora):
        super().__init__()
        self.heads = config["num_attention_heads"]
        eps = config["rms_norm_eps"]
        take = lambda name: tensors[prefix + name + ".weight"]
        self.input_norm = RmsNorm(take("input_layernorm"), eps)
        self.post_norm = RmsNorm(take("post_attention_layernorm"), eps)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, lora(take("self_attn." + name)))
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(self, name, lora(take("mlp." + name)))

    def attention(self, x, cos, sin, mask):
        batch, tokens, width = x.shape
        split = lambda y: y.view(batch, tokens, self.heads, -1).transpose(1, 2)
        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        if hasattr(F, "scaled_dot_product_attention"):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + mask
            out = F.softmax(scores, dim=-1) @ v
        return self.o_proj(out.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x, cos, sin, mask):
        x = x + self.attention(self.input_norm(x), cos, sin, mask)
        h = self.post_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class Llama(nn.Module):
    def __init__(self, config, tensors):
        super().__init__()
        lora = lambda weight: LoraLinear(weight, 8, 16.0)
        self.embedding = nn.Embedding.from_pretrained(tensors["model.embed_tokens.weight"])
        self.blocks = nn.ModuleList(
            Block(config, tensors, f"model.layers.{i}.", lora) for i in range(config["num_hidden_layers"]))
        self.norm = RmsNorm(tensors["model.norm.weight"], config["rms_norm_eps"])
        head = tensors["lm_head.weight"]
        self.head = nn.Linear(head.shape[1], head.shape[0], bias=False)
        self.head.weight = nn.Parameter(head, requires_grad=False)
        dim = config["hidden_size"] // config["num_attention_heads"]
        self.frequencies = config.get("rope_theta", 10000.0) ** (-torch.arange(0, dim, 2).float() / dim)

    def forward(self, ids, targets):
        tokens = ids.shape[1]
        angles = torch.outer(torch.arange(tokens).float(), self.frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        mask = torch.full((tokens, tokens), float("-inf")).triu(1)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin(), mask)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    with open(folder + "/config.json") as file:
        config = json.load(file)
    model = Llama(config, read_safetensors(folder + "/model.safetensors"))
    with open(folder + "/ids.json") as file:
        ids = torch.tensor(json.load(file))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    with torch.no_grad():
        print(torch.__version__, model(inputs, targets).item(), flush=True)
    for _ in sys.stdin:
        begin, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = model(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        print(time.perf_counter() - begin, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
