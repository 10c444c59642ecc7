#!/usr/bin/env python3
"""Golden values of adapters, by PyTorch and nothing of Choir's.

    /usr/bin/python3 tools/golden_adapters/make.py [--out tests/data/golden_adapters]

Needs PyTorch (Debian's python3-torch). Writes for each case a PEFT folder with
random values and expected.json: the mean loss per predicted token and the logits
after the last token of some ids on tests/data/micro-llama, and gradient.safetensors
with the loss's gradient by every adapter tensor. All is computed in float64, straight
from the definitions:

    LoRA, rsLoRA  W x + s B A x, s = alpha / r, or alpha / sqrt(r) (Kalajdzievski, 2023)
    DoRA          m (W x + s B A x) / |W + s B A|, norms of rows, constant to the
                  gradient (Liu et al., 2024, section 4.3)
    (IA)^3        l * (W x); of feed-forward modules W (l * x) (Liu et al., 2022)

Which layers a configuration means, and with which rank and alpha, is decided with
Python's re as PEFT does: check_target_module_exists and get_pattern_key.
"""
import argparse
import json
import math
import os
import re
import struct

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BASE = os.path.join(ROOT, "tests", "data", "micro-llama")
IDS = [[0, 17, 203, 96, 5, 310, 44, 44, 128, 9], [0, 250, 31, 7, 371, 66]]
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": 2, "lora_alpha": 6,
        "lora_dropout": 0.0, "fan_in_fan_out": False, "base_model_name_or_path": "micro-llama"}
CASES = {
    "lora": dict(LORA, target_modules="all-linear", exclude_modules=["gate_proj", "up_proj", "v_proj"]),
    "rslora_patterns": dict(
        LORA, use_rslora=True, target_modules=["q_proj", "down_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 3, "q_proj": 1},
        alpha_pattern={".*\\.1\\.mlp\\.down_proj": 4.5, "^model.layers.0.self_attn.q_proj": 9}),
    "dora": dict(LORA, use_dora=True, target_modules=".*layers\\.[01]\\.(mlp\\.down|self_attn\\.q)_proj"),
    "dora_rslora": dict(LORA, use_dora=True, use_rslora=True, target_modules=["o_proj", "k_proj"],
                        layers_to_transform=[1]),
    "ia3": {"peft_type": "IA3", "task_type": "CAUSAL_LM", "fan_in_fan_out": False,
            "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"],
            "base_model_name_or_path": "micro-llama"},
}
KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        part = bytearray(data[8 + size + begin:8 + size + end])
        dtype = {"BF16": torch.bfloat16, "F32": torch.float32}[entry["dtype"]]
        tensors[name] = torch.frombuffer(part, dtype=dtype).reshape(entry["shape"]).double()
    return tensors


def write_safetensors(path, tensors):
    header, body, offset = {"__metadata__": {"format": "pt"}}, b"", 0
    for name in sorted(tensors):
        values = tensors[name].detach().float().flatten().tolist()
        part = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + len(part)]}
        body, offset = body + part, offset + len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


def named(names, module):
    return any(module == name or module.endswith("." + name) for name in names)


def targeted(config, module):
    excluded = config.get("exclude_modules")
    if excluded and named(excluded, module):
        return False
    targets = config["target_modules"]
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    if not named(targets, module):
        return False
    layers = config.get("layers_to_transform")
    return layers is None or int(re.match(r".*\.[^.]*\.(\d+)\.", module).group(1)) in layers


def of_pattern(patterns, module, usual):
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return usual


class Adapter:
    def __init__(self, config, weights, modules, seed):
        self.config, self.tensors = config, {}
        generator = torch.Generator().manual_seed(seed)

        def draw(name, shape, mean=0.0):
            values = mean + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
            # What the file holds is what is computed with.
            self.tensors["base_model.model." + name] = values.float().double().requires_grad_(True)

        for module in modules:
            if not targeted(config, module):
                continue
            out_features, in_features = weights[module + ".weight"].shape
            if config["peft_type"] == "IA3":
                feedforward = named(config["feedforward_modules"], module)
                draw(module + ".ia3_l", (1, in_features) if feedforward else (out_features, 1), 1.0)
                continue
            rank = of_pattern(config.get("rank_pattern"), module, config["r"])
            draw(module + ".lora_A.weight", (rank, in_features))
            draw(module + ".lora_B.weight", (out_features, rank))
            if config.get("use_dora"):
                draw(module + ".lora_magnitude_vector", (out_features,), 1.0)

    def get(self, module, suffix):
        return self.tensors.get(f"base_model.model.{module}.{suffix}")

    def apply(self, module, weight, x):
        scale = self.get(module, "ia3_l")
        if scale is not None:
            if named(self.config["feedforward_modules"], module):
                return (x * scale.flatten()) @ weight.T
            return (x @ weight.T) * scale.flatten()
        a, b = self.get(module, "lora_A.weight"), self.get(module, "lora_B.weight")
        if a is None:
            return x @ weight.T
        rank = a.shape[0]
        alpha = of_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        s = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        y = x @ weight.T + s * ((x @ a.T) @ b.T)
        m = self.get(module, "lora_magnitude_vector")
        if m is None:
            return y
        norm = (weight + s * (b @ a)).norm(dim=1).detach()
        return y * (m / norm)


def rms_norm(x, weight, eps):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def logits_of(config, w, adapter, ids):
    heads, groups, dim = (config[key] for key in
                          ("num_attention_heads", "num_key_value_heads", "head_dim"))
    n, eps = len(ids), config["rms_norm_eps"]
    frequencies = config["rope_theta"] ** (-torch.arange(0, dim, 2).double() / dim)
    angles = torch.outer(torch.arange(n).double(), frequencies)
    angles = torch.cat((angles, angles), -1)
    mask = torch.full((n, n), -math.inf, dtype=torch.float64).triu(1)
    x = w["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."

        def linear(name, value):
            return adapter.apply(at + name, w[at + name + ".weight"], value)

        h = rms_norm(x, w[at + "input_layernorm.weight"], eps)
        q = rotate(linear("self_attn.q_proj", h).view(n, heads, dim).transpose(0, 1), angles.cos(), angles.sin())
        k = rotate(linear("self_attn.k_proj", h).view(n, groups, dim).transpose(0, 1), angles.cos(), angles.sin())
        v = linear("self_attn.v_proj", h).view(n, groups, dim).transpose(0, 1)
        k, v = (t.repeat_interleave(heads // groups, 0) for t in (k, v))
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(dim) + mask, -1) @ v
        x = x + linear("self_attn.o_proj", mixed.transpose(0, 1).reshape(n, heads * dim))
        h = rms_norm(x, w[at + "post_attention_layernorm.weight"], eps)
        gate = torch.nn.functional.silu(linear("mlp.gate_proj", h))
        x = x + linear("mlp.down_proj", gate * linear("mlp.up_proj", h))
    return rms_norm(x, w["model.norm.weight"], eps) @ w["model.embed_tokens.weight"].T


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(ROOT, "tests", "data", "golden_adapters"))
    out = parser.parse_args().out
    with open(os.path.join(BASE, "config.json")) as file:
        model = json.load(file)
    weights = read_safetensors(os.path.join(BASE, "model.safetensors"))
    modules = [f"model.layers.{i}.{kind}" for i in range(model["num_hidden_layers"]) for kind in KINDS]
    for seed, (name, config) in enumerate(CASES.items()):
        adapter = Adapter(config, weights, modules, seed)
        nll, count, last = 0.0, 0, []
        for ids in IDS:
            logits = logits_of(model, weights, adapter, ids)
            nll = nll + torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum")
            count += len(ids) - 1
            last.append([round(value, 6) for value in logits[-1, ::12].tolist()])
        loss = nll / count
        loss.backward()
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        write_safetensors(os.path.join(folder, "adapter_model.safetensors"), adapter.tensors)
        write_safetensors(os.path.join(folder, "gradient.safetensors"),
                          {key: value.grad for key, value in adapter.tensors.items()})
        for file_name, document in (("adapter_config.json", config),
                                    ("expected.json", {"ids": IDS, "mean_loss": loss.item(), "logits_last": last})):
            with open(os.path.join(folder, file_name), "w") as file:
                json.dump(document, file, indent=1)
                file.write("\n")
        print(f"{name}: {len(adapter.tensors)} tensors, mean loss {loss.item():.6f}")


if __name__ == "__main__":
    main()
