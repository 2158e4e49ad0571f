#!/usr/bin/env python3
"""Turn a released VAR checkpoint into a model file of tessera: vae_ch160v4096z32.pth, var_d16.pth to var_d36.pth.

    python3 tools/convert_var.py IN.pth OUT.safetensors [--image-size 512 | --patch-nums 1,2,4]

Tensors keep their names, shapes and numbers. Buffers that no model learns (masks, counters, the key bias of zeros) are
left out. The configuration is derived from the shapes, and every tensor is checked against it. What shapes do not show is
as published: 32 groups in the norms, eps 1e-6, phi(u) = 0.5 u + 0.5 conv(u). The scales of a tokenizer are not in its file
either: those of 256x256 pictures are assumed; for var_d36.pth (512x512) convert it once more with --image-size 512.

Needs Python 3.8 alone, no PyTorch. The pickle inside is read by an unpickler that makes dictionaries and tensors and
refuses everything else, so a file from anywhere can do no harm. One tensor is in memory at a time.
"""
import argparse
import functools
import io
import json
import math
import os
import pickle
import re
import struct
import sys
import tempfile
import zipfile
from collections import OrderedDict
from typing import NamedTuple

SCALES = {256: [1, 2, 3, 4, 5, 6, 8, 10, 13, 16], 512: [1, 2, 3, 4, 6, 9, 13, 18, 24, 32]}
BUFFERS = re.compile(r"attn_bias_for_masking|lvl_1L|blocks\.\d+\.attn\.zero_k_bias|quantize\.ema_vocab_hit_SV")
DTYPES = {"FloatStorage": ("F32", 4), "DoubleStorage": ("F64", 8), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
          "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
          "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1)}
WEIGHTS = ("F32", "F64", "F16", "BF16")
NAMED = 20  # tensors that do not fit and are listed
DATA, INPUT, IO = 65, 66, 74  # exit codes, those of tessera
PICKLE_BYTES = 64 << 20
HEADER_BYTES = 25_000_000


def fail(line, code=DATA):
    print("convert_var.py: " + " ".join(line.split()), file=sys.stderr)
    sys.exit(code)


class Unfit(Exception):
    """What is wrong with the input, without its name."""


# --- reading: a zip archive with data.pkl and one entry for each storage ---

class Storage(NamedTuple):
    key: str
    dtype: str
    size: int  # bytes of one number
    count: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple
    stride: tuple


class StorageType(NamedTuple):
    dtype: str
    size: int


def is_extents(x):
    return type(x) in (tuple, list) and len(x) <= 8 and all(type(n) is int and 0 <= n < 1 << 48 for n in x)


class Rebuild:
    """In the place of torch._utils._rebuild_tensor_v2."""
    __slots__ = ()

    def __call__(self, storage, offset, shape, stride, *_):
        if type(storage) is not Storage or not is_extents([offset]) or not is_extents(shape) or not is_extents(stride) \
                or len(shape) != len(stride):
            raise Unfit("a tensor has no proper storage, offset, shape and stride")
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
        if math.prod(shape) > storage.count or (math.prod(shape) > 0 and last >= storage.count):
            raise Unfit(f"a tensor of shape {list(shape)} reaches beyond its storage of {storage.count} numbers")
        return Tensor(storage, offset, tuple(shape), tuple(stride))


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Rebuild()
        if module == "torch" and name in DTYPES:
            return StorageType(*DTYPES[name])
        asked = f"{module}.{name}"
        raise Unfit(f"its pickle asks for {asked[:80]!a}, expected dictionaries and tensors alone: refused")

    def persistent_load(self, pid):
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not StorageType \
                or type(pid[2]) is not str or not is_extents([pid[4]]):
            raise Unfit("its pickle names a storage in an unknown way")
        return Storage(pid[2], pid[1].dtype, pid[1].size, pid[4])


class Checkpoint:
    def __init__(self, path):
        with open(path, "rb") as f:
            if f.read(2) == b"\x80\x02":
                raise Unfit("has the format of PyTorch before 1.6; load it there and save it again")
        self.zip = zipfile.ZipFile(path)
        folders = [n[:-len("data.pkl")] for n in self.zip.namelist() if re.fullmatch(r"[^/]+/data\.pkl", n)]
        if len(folders) != 1:
            raise Unfit("is a zip archive without data.pkl, not one that PyTorch wrote")
        self.folder = folders[0]
        if self.folder + "byteorder" in self.zip.namelist() and self.entry("byteorder", 64).strip() != b"little":
            raise Unfit("has numbers in big-endian order, expected little")
        self.tensors = self.unpickle()

    def entry(self, name, most):
        try:
            info = self.zip.getinfo(self.folder + name)
        except KeyError:
            raise Unfit(f"has no entry {name[:40]!a}") from None
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise Unfit(f"entry {name[:40]!a} is compressed or larger than {most} bytes")
        return self.zip.read(info)

    def unpickle(self):
        try:
            state = Unpickler(io.BytesIO(self.entry("data.pkl", PICKLE_BYTES))).load()
        except (Unfit, zipfile.BadZipFile, OSError):
            raise
        except Exception as e:  # a pickle can be wrong in many ways
            raise Unfit(f"its pickle cannot be read: {e}") from None
        if type(state) not in (dict, OrderedDict):
            raise Unfit("its pickle is not a dictionary of tensors")
        for name, t in dict.items(state):
            if type(name) is not str or type(t) is not Tensor:
                raise Unfit(f"holds {name!a:.80}, which is not a tensor: expected a released file, a dictionary of tensors alone")
        return dict(dict.items(state))

    @functools.lru_cache(maxsize=1)
    def storage(self, s):
        data = self.entry("data/" + s.key, s.count * s.size)
        if len(data) != s.count * s.size:
            raise Unfit(f"storage {s.key[:40]!a} has {len(data)} bytes, expected {s.count * s.size}")
        return data

    def read(self, name):
        """The numbers of a tensor in row order, as bytes."""
        t = self.tensors[name]
        size, n = t.storage.size, math.prod(t.shape)
        data = memoryview(self.storage(t.storage)) if n else memoryview(b"")
        if is_contiguous(t):
            return data[t.offset * size:(t.offset + n) * size]
        items = data.cast({1: "B", 2: "H", 4: "I", 8: "Q"}[size])
        out = bytearray()

        def gather(at, d):
            if d == len(t.shape) - 1:
                end = at + (t.shape[d] - 1) * t.stride[d] + 1
                row = items[at:end:t.stride[d]] if t.stride[d] else None
                out.extend(row.tobytes() if row is not None else items[at:at + 1].tobytes() * t.shape[d])
                return
            for i in range(t.shape[d]):
                gather(at + i * t.stride[d], d + 1)

        gather(t.offset, 0)
        return out


def is_contiguous(t):
    step = 1
    for n, s in zip(reversed(t.shape), reversed(t.stride)):
        if n != 1 and s != step:
            return math.prod(t.shape) == 0
        step *= n
    return True


# --- what the shapes say ---

class Shapes(dict):
    """Shapes by name. size(name, axis, rank): one extent."""

    def size(self, name, axis, rank):
        if name not in self:
            raise Unfit(f"has no tensor {name}, from which the configuration is derived")
        if len(self[name]) != rank or self[name][axis] < 1:
            raise Unfit(f"tensor {name} has shape {list(self[name])}, expected {rank} dimensions")
        return self[name][axis]

    def listed(self, pattern):
        """How many of pattern % 0, pattern % 1, ... are there."""
        n = 0
        while pattern % n in self:
            n += 1
        return n


def tokenizer_config(shapes, sides):
    ch = shapes.size("encoder.conv_in.weight", 0, 4)
    n_levels = shapes.listed("encoder.down.%d.block.0.conv1.weight")
    widths = [shapes.size(f"encoder.down.{i}.block.0.conv1.weight", 0, 4) for i in range(n_levels)]
    if not widths or any(w % ch for w in widths) or ch % 32:
        raise Unfit(f"has levels of {widths} channels on {ch}, expected multiples, and {ch} to be one of 32")
    phis = shapes.listed("quantize.quant_resi.qresi_ls.%d.weight")
    if not phis:
        phis = 1 if "quantize.quant_resi.qresi.weight" in shapes else 0 if "quantize.quant_resi.0.weight" in shapes else -1
    return {
        "kind": "tokenizer", "image_size": sides[-1] << (n_levels - 1), "in_channels": shapes.size("encoder.conv_in.weight", 1, 4),
        "ch": ch, "ch_mult": [w // ch for w in widths], "num_res_blocks": shapes.listed("encoder.down.0.block.%d.conv1.weight"),
        "norm_groups": 32, "attention": "encoder.mid.attn_1.qkv.weight" in shapes,
        "z_channels": shapes.size("encoder.conv_out.weight", 0, 4), "quant_conv_ks": shapes.size("quant_conv.weight", 2, 4),
        "patch_nums": sides, "preprocess": "var",
        "quantizer": {"kind": "vq", "vocab_size": shapes.size("quantize.embedding.weight", 0, 2), "using_znorm": False,
                      "quant_resi": 0.5, "share_quant_resi": phis, "beta": 0.25}}


def tokenizer_shapes(c):
    z, k, groups = c["z_channels"], c["quant_conv_ks"], {}

    def conv(name, i, o, side):
        groups.update({name + ".weight": (o, i, side, side), name + ".bias": (o,)})

    def norm(name, n):
        groups.update({name + ".weight": (n,), name + ".bias": (n,)})

    def res(name, i, o):
        norm(name + ".norm1", i)
        conv(name + ".conv1", i, o, 3)
        norm(name + ".norm2", o)
        conv(name + ".conv2", o, o, 3)
        if i != o:
            conv(name + ".nin_shortcut", i, o, 1)

    def attn(name, n):
        if c["attention"]:
            norm(name + ".norm", n)
            conv(name + ".qkv", n, 3 * n, 1)
            conv(name + ".proj_out", n, n, 1)

    def half(root, inside, outside, order, blocks, levels, resize, stop):
        at = c["ch"] * (1 if root == "encoder" else c["ch_mult"][-1])
        conv(root + ".conv_in", inside, at, 3)
        for i in order:
            width = c["ch"] * c["ch_mult"][i]
            for j in range(blocks):
                res(f"{root}.{levels}.{i}.block.{j}", at, width)
                at = width
                if i == len(c["ch_mult"]) - 1:
                    attn(f"{root}.{levels}.{i}.attn.{j}", at)
            if i != stop:
                conv(f"{root}.{levels}.{i}.{resize}.conv", at, at, 3)
        middle = c["ch"] * c["ch_mult"][-1]
        res(root + ".mid.block_1", middle, middle)
        attn(root + ".mid.attn_1", middle)
        res(root + ".mid.block_2", middle, middle)
        norm(root + ".norm_out", at)
        conv(root + ".conv_out", at, outside, 3)

    levels = range(len(c["ch_mult"]))
    half("encoder", c["in_channels"], z, levels, c["num_res_blocks"], "down", "downsample", levels[-1])
    half("decoder", z, c["in_channels"], levels[::-1], c["num_res_blocks"] + 1, "up", "upsample", 0)
    conv("quant_conv", z, z, k)
    conv("post_quant_conv", z, z, k)
    share = c["quantizer"]["share_quant_resi"]
    groups["quantize.embedding.weight"] = (c["quantizer"]["vocab_size"], z)
    names = {0: [str(i) for i in range(len(c["patch_nums"]))], 1: ["qresi"], -1: []}
    for name in [f"qresi_ls.{i}" for i in range(share)] if share > 1 else names[share]:
        conv("quantize.quant_resi." + name, z, z, 3)
    return groups


def generator_config(shapes, sides):
    width, depth = shapes.size("word_embed.weight", 0, 2), shapes.listed("blocks.%d.attn.mat_qkv.weight")
    l2 = "blocks.0.attn.scale_mul_1H11" in shapes
    if not l2 and width % 64:
        raise Unfit(f"is {width} wide without attn.scale_mul_1H11: the number of heads is not known")
    return {
        "kind": "generator", "num_classes": shapes.size("class_emb.weight", 0, 2) - 1, "depth": depth, "embed_dim": width,
        "num_heads": shapes.size("blocks.0.attn.scale_mul_1H11", 1, 4) if l2 else width // 64,
        "mlp_ratio": shapes.size("blocks.0.ffn.fc1.weight", 0, 2) / width, "norm_eps": 1e-6,
        "shared_aln": "shared_ada_lin.1.weight" in shapes, "attn_l2_norm": l2, "patch_nums": sides,
        "vocab_size": shapes.size("head.weight", 0, 2), "z_channels": shapes.size("word_embed.weight", 1, 2)}


def generator_shapes(c):
    C, tokens = c["embed_dim"], sum(p * p for p in c["patch_nums"])
    groups = {"class_emb.weight": (c["num_classes"] + 1, C), "pos_start": (1, c["patch_nums"][0] ** 2, C),
              "pos_1LC": (1, tokens, C), "lvl_embed.weight": (len(c["patch_nums"]), C)}

    def linear(name, i, o):
        groups.update({name + ".weight": (o, i), name + ".bias": (o,)})

    linear("word_embed", c["z_channels"], C)
    linear("head_nm.ada_lin.1", C, 2 * C)
    linear("head", C, c["vocab_size"])
    if c["shared_aln"]:
        linear("shared_ada_lin.1", C, 6 * C)
    for i in range(c["depth"]):
        block, hidden = f"blocks.{i}.", round(C * c["mlp_ratio"])
        groups.update({block + "attn.mat_qkv.weight": (3 * C, C), block + "attn.q_bias": (C,), block + "attn.v_bias": (C,)})
        if c["attn_l2_norm"]:
            groups[block + "attn.scale_mul_1H11"] = (1, c["num_heads"], 1, 1)
        if c["shared_aln"]:
            groups[block + "ada_gss"] = (1, 1, 6, C)
        else:
            linear(block + "ada_lin.1", C, 6 * C)
        linear(block + "attn.proj", C, C)
        linear(block + "ffn.fc1", C, hidden)
        linear(block + "ffn.fc2", hidden, C)
    return groups


def check(shapes, wanted):
    """All that does not fit, in one line."""
    wrong = [f"missing {n}" for n in wanted if n not in shapes] + [f"unknown tensor {n!a}" for n in shapes if n not in wanted]
    wrong += [f"tensor {n} has shape {list(shapes[n])}, expected {list(wanted[n])}"
              for n in wanted if n in shapes and shapes[n] != wanted[n]]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise Unfit("does not fit the configuration that its shapes say: " + "; ".join(wrong[:NAMED]) + more)


def generator_sides(checkpoint, asked):
    """The scales, from the level of each token."""
    sides = asked
    if "lvl_1L" in checkpoint.tensors and checkpoint.tensors["lvl_1L"].storage.dtype == "I64":
        levels = list(memoryview(checkpoint.read("lvl_1L")).cast("q"))
        counts = [levels.count(k) for k in range(max(levels, default=-1) + 1)]
        sides = [math.isqrt(n) for n in counts]
        if not sides or levels != [k for k, s in enumerate(sides) for _ in range(s * s)]:
            raise Unfit("lvl_1L does not list square scales in their order")
        if asked and asked != sides:
            raise Unfit(f"has the scales {sides}, not {asked}")
    if not sides:
        raise Unfit("has no lvl_1L: give its scales with --patch-nums")
    return sides


def describe(checkpoint, asked):
    """Configuration and the tensors to keep."""
    tensors = checkpoint.tensors
    shapes = Shapes({n: t.shape for n, t in tensors.items() if not BUFFERS.fullmatch(n)})
    if "encoder.conv_in.weight" in shapes:
        config = tokenizer_config(shapes, asked or SCALES[256])
        wanted = tokenizer_shapes(config)
    elif "pos_1LC" in shapes:
        config = generator_config(shapes, generator_sides(checkpoint, asked))
        wanted = generator_shapes(config)
    else:
        raise Unfit("is neither the tokenizer nor a generator of VAR: has no encoder.conv_in.weight and no pos_1LC")
    check(shapes, wanted)
    for n in shapes:
        if tensors[n].storage.dtype not in WEIGHTS:
            raise Unfit(f"tensor {n} is {tensors[n].storage.dtype}, expected one of {' '.join(WEIGHTS)}")
    for n, t in tensors.items():
        if n.endswith("zero_k_bias") and any(bytes(checkpoint.read(n)).strip(b"\0")):
            raise Unfit(f"{n} is not zero")
    return config, list(shapes)


# --- writing ---

def header_bytes(checkpoint, config, names):
    header, end = {"__metadata__": {"format": "pt", "tessera": json.dumps(config, separators=(",", ":"))}}, 0
    for name in names:
        t = checkpoint.tensors[name]
        begin, end = end, end + math.prod(t.shape) * t.storage.size
        header[name] = {"dtype": t.storage.dtype, "shape": list(t.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES:
        raise Unfit(f"needs a header of {len(text)} bytes, at most {HEADER_BYTES} are allowed")
    return struct.pack("<Q", len(text)) + text


def write(path, checkpoint, config, names):
    names = sorted(names, key=lambda n: (-checkpoint.tensors[n].storage.size, n))
    folder = os.path.dirname(path) or "."
    handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as f:
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(f.fileno(), 0o666 & ~mask)
            f.write(header_bytes(checkpoint, config, names))
            for name in names:
                f.write(checkpoint.read(name))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    parent = os.open(folder, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)


def patch_nums(text):
    sides = [int(s) for s in text.split(",")]
    if not sides or any(not 1 <= s <= 1024 for s in sides) or any(a >= b for a, b in zip(sides, sides[1:])):
        raise ValueError
    return sides


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("input", metavar="IN.pth")
    p.add_argument("output", metavar="OUT.safetensors")
    size = p.add_mutually_exclusive_group()
    size.add_argument("--image-size", type=int, choices=sorted(SCALES), help="scales of a published model of this size")
    size.add_argument("--patch-nums", type=patch_nums, help="the scales, ascending: 1,2,4")
    o = p.parse_args()
    asked = SCALES[o.image_size] if o.image_size else o.patch_nums
    try:
        checkpoint = Checkpoint(o.input)
        config, names = describe(checkpoint, asked)
        if o.image_size and config.get("image_size", o.image_size) != o.image_size:
            raise Unfit(f"makes pictures of {config['image_size']} pixels with these scales, not {o.image_size}")
    except (FileNotFoundError, IsADirectoryError) as e:
        fail(f"{o.input}: {e.strerror}", INPUT)
    except (Unfit, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as e:
        fail(f"{o.input}: {e}")
    except OSError as e:
        fail(f"{o.input}: {e}", IO)
    try:
        write(o.output, checkpoint, config, names)
    except (Unfit, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as e:
        fail(f"{o.input}: {e}")
    except OSError as e:
        fail(f"{o.output}: {e.strerror or e}", IO)
    numbers = sum(math.prod(checkpoint.tensors[n].shape) for n in names)
    print(f"{o.output}: {config['kind']}, {len(names)} tensors, {numbers / 1e6:.2f} M numbers, "
          f"{len(checkpoint.tensors) - len(names)} buffers left out")


if __name__ == "__main__":
    main()
