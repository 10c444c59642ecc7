"""A Llama with random weights in a Hugging Face folder, and a batch of ids."""
import json
import os
import struct

import torch

# About 1.1 billion parameters, the shape of TinyLlama.
LARGE = dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
             num_key_value_heads=4, vocab_size=32000, max_position_embeddings=2048)
SMALL = dict(hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=1000, max_position_embeddings=256)


def shapes(sizes):
    """Names and shapes of all tensors."""
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    keys = hidden // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    found = {"model.embed_tokens.weight": (sizes["vocab_size"], hidden), "model.norm.weight": (hidden,),
             "lm_head.weight": (sizes["vocab_size"], hidden)}
    for i in range(sizes["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, shape in (("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (keys, hidden)),
                            ("self_attn.v_proj", (keys, hidden)), ("self_attn.o_proj", (hidden, hidden)),
                            ("mlp.gate_proj", (inner, hidden)), ("mlp.up_proj", (inner, hidden)),
                            ("mlp.down_proj", (hidden, inner)), ("input_layernorm", (hidden,)),
                            ("post_attention_layernorm", (hidden,))):
            found[layer + name + ".weight"] = shape
    return found


def write(folder, sizes, batch, tokens, device):
    """Writes config.json, model.safetensors (bfloat16) and ids.json: `batch` rows of `tokens` + 1 ids."""
    config = dict(sizes, architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", rms_norm_eps=1e-5,
                  rope_theta=10000.0, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
                  torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)
    header, offset = {}, 0
    for name, shape in shapes(sizes).items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator(device).manual_seed(1)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes(sizes).items():
            values = torch.ones(shape, device=device)
            if "norm" not in name:
                values = torch.randn(shape, generator=generator, device=device) * 0.02
            file.write(values.to(torch.bfloat16).cpu().view(torch.int16).numpy().tobytes())
    ids = torch.randint(sizes["vocab_size"], (batch, tokens + 1), generator=torch.Generator().manual_seed(2))
    with open(os.path.join(folder, "ids.json"), "w") as file:
        json.dump(ids.tolist(), file)


def matmul_parameters(sizes):
    """Parameters that tokens are multiplied with: all but the embedding and the norms."""
    return sum(torch.Size(shape).numel() for name, shape in shapes(sizes).items()
               if len(shape) == 2 and "embed" not in name)
