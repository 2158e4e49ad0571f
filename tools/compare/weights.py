#!/usr/bin/env python3
"""Write model files with weights that anybody can make again from a hash (the rule is in tests/golden/README.md).

    python3 tools/compare/weights.py --depth 16 --out DIR       DIR/tokenizer.safetensors, DIR/generator.safetensors

Sizes are those of the published models: depth 16, 20, 24, 30 at 256 pixels, 36 at 512 with shared AdaLN. --small makes a pair
of toys; --bf16 rounds to bfloat16, half the size. Needs torch, numpy and safetensors.
"""
import argparse
import json
import math
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

import networks

SCALES = {256: [1, 2, 3, 4, 5, 6, 8, 10, 13, 16], 512: [1, 2, 3, 4, 6, 9, 13, 18, 24, 32], 32: [1, 2, 3, 4]}


def uniform(name, n):
    h = 0xCBF29CE484222325
    for byte in b"c" + name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.float32(2) * (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-24) - np.float32(1)


def weight(prefix, name, shape):
    u = uniform(f"{prefix}.{name}", math.prod(shape))
    if name.endswith("zero_k_bias"):
        u[:] = 0
    elif name.endswith("scale_mul_1H11"):
        u = (math.log(4) + 0.1 * u.astype(np.float64)).astype(np.float32)
    elif len(shape) == 2 or (len(shape) == 4 and not name.endswith("ada_gss")):
        u *= np.float32(math.sqrt(3 / math.prod(shape[1:])))
    elif len(shape) == 1:
        u = ((1 if name.endswith(".weight") else 0) + 0.1 * u.astype(np.float64)).astype(np.float32)
    else:
        u *= np.float32(0.5)
    return torch.from_numpy(u.reshape(shape))


def configurations(depth, small):
    size = 32 if small else 512 if depth == 36 else 256
    c = {"kind": "tokenizer", "image_size": size, "in_channels": 3, "ch": 160, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2,
         "z_channels": 32, "quant_conv_ks": 3, "patch_nums": SCALES[size],
         "quantizer": {"kind": "vq", "vocab_size": 4096, "using_znorm": False, "quant_resi": 0.5, "share_quant_resi": 4,
                       "beta": 0.25}}
    g = {"kind": "generator", "num_classes": 1000, "depth": depth, "embed_dim": 64 * depth, "num_heads": depth,
         "mlp_ratio": 4.0, "norm_eps": 1e-6, "shared_aln": depth == 36, "attn_l2_norm": True, "patch_nums": SCALES[size],
         "vocab_size": 4096, "z_channels": 32}
    if small:
        c |= {"ch": 32, "ch_mult": [1, 1, 2, 2]}
        c["z_channels"] = g["z_channels"] = 8
        c["quantizer"]["vocab_size"] = g["vocab_size"] = 128
        g |= {"num_classes": 10}
    return c, g


def write(path, module, config, prefix, dtype):
    tensors = {name: weight(prefix, name, tuple(t.shape)).to(dtype) for name, t in module.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt", "tessera": json.dumps(config)})
    print(f"{path}: {sum(t.numel() for t in tensors.values()) / 1e6:.1f} M numbers")


def main():
    p = argparse.ArgumentParser(description="Model files of published size with hash weights.")
    p.add_argument("--depth", type=int, default=16, help="of the transformer: 16, 20, 24, 30, 36 (default 16)")
    p.add_argument("--small", action="store_true", help="toys: 32 pixels, and the width that follows from --depth")
    p.add_argument("--bf16", action="store_true", help="numbers are bfloat16 in the files")
    p.add_argument("--out", required=True, type=pathlib.Path, help="folder")
    o = p.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    c, g = configurations(o.depth, o.small)
    with torch.device("meta"):
        tokenizer, generator = networks.Tokenizer(c), networks.Generator(g)
    dtype = torch.bfloat16 if o.bf16 else torch.float32
    write(o.out / "tokenizer.safetensors", tokenizer, c, "compare.tokenizer", dtype)
    write(o.out / "generator.safetensors", generator, g, "compare.generator", dtype)


if __name__ == "__main__":
    main()
