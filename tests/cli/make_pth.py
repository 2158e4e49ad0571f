"""Make small checkpoints as PyTorch's torch.save writes them, without PyTorch; compare what was made of them.

    make_pth.py make DIR                        DIR/vae.pth, var.pth, shared.pth and files that must be refused
    make_pth.py compare IN.pth.json OUT.safetensors
"""
import array
import collections
import json
import math
import os
import pickle
import random
import struct
import sys
import types
import zipfile

sys.modules["torch"] = torch = types.ModuleType("torch")
sys.modules["torch._utils"] = torch._utils = types.ModuleType("torch._utils")
for name, kind in ("FloatStorage", "f"), ("LongStorage", "q"), ("HalfStorage", "e"), ("BFloat16Storage", "H"):
    setattr(torch, name, type(name, (), {"__module__": "torch", "kind": kind}))


def _rebuild_tensor_v2():
    pass


_rebuild_tensor_v2.__module__ = "torch._utils"
torch._utils._rebuild_tensor_v2 = _rebuild_tensor_v2
rng = random.Random(1)
NOISE = [rng.uniform(-1, 1) for _ in range(9973)]


class Storage:
    def __init__(self, kind, values):
        self.kind, self.key = kind, None
        self.values = list(array.array("f", values) if kind is torch.FloatStorage else values)

    def data(self):
        return struct.pack(f"<{len(self.values)}{self.kind.kind}", *self.values)


class Tensor:
    def __init__(self, shape, storage, offset=0, stride=None):
        self.shape, self.storage, self.offset = tuple(shape), storage, offset
        self.stride = stride or tuple(math.prod(shape[i + 1:]) for i in range(len(shape)))

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (self.storage, self.offset, self.shape, self.stride, False,
                                                 collections.OrderedDict())

    def values(self):
        at = [self.offset]
        for n, s in zip(self.shape, self.stride):
            at = [a + i * s for a in at for i in range(n)]
        return [self.storage.values[a] for a in at]


def weight(*shape):
    scale = (3 / math.prod(shape[1:])) ** 0.5 if len(shape) in (2, 4) else 0.1
    n = math.prod(shape)
    start = rng.randrange(len(NOISE))
    return Tensor(shape, Storage(torch.FloatStorage, [scale * x for x in (NOISE[start:] + NOISE * (n // len(NOISE) + 1))[:n]]))


class State(collections.OrderedDict):
    """What a module's state_dict gives: with an attribute beside the tensors."""

    def conv(self, name, i, o, k):
        self[name + ".weight"], self[name + ".bias"] = weight(o, i, k, k), weight(o)

    def norm(self, name, n):
        self[name + ".weight"] = Tensor((n,), Storage(torch.FloatStorage, [1.0] * n))
        self[name + ".bias"] = weight(n)

    def res(self, name, i, o):
        self.norm(name + ".norm1", i)
        self.conv(name + ".conv1", i, o, 3)
        self.norm(name + ".norm2", o)
        self.conv(name + ".conv2", o, o, 3)
        if i != o:
            self.conv(name + ".nin_shortcut", i, o, 1)

    def attn(self, name, n):
        self.norm(name + ".norm", n)
        self.conv(name + ".qkv", n, 3 * n, 1)
        self.conv(name + ".proj_out", n, n, 1)

    def linear(self, name, i, o):
        self[name + ".weight"], self[name + ".bias"] = weight(o, i), weight(o)


def vae(z=8, codes=32):
    """32 channels, ch_mult 1,2, one block a level, latent z wide, scales 1,2,4 of 8x8 pictures."""
    s = State()
    s.conv("encoder.conv_in", 3, 32, 3)
    s.res("encoder.down.0.block.0", 32, 32)
    s.conv("encoder.down.0.downsample.conv", 32, 32, 3)
    s.res("encoder.down.1.block.0", 32, 64)
    s.attn("encoder.down.1.attn.0", 64)
    s.conv("decoder.conv_in", z, 64, 3)
    for half in "encoder", "decoder":
        s.res(half + ".mid.block_1", 64, 64)
        s.attn(half + ".mid.attn_1", 64)
        s.res(half + ".mid.block_2", 64, 64)
    for j in range(2):
        s.res(f"decoder.up.1.block.{j}", 64, 64)
        s.attn(f"decoder.up.1.attn.{j}", 64)
        s.res(f"decoder.up.0.block.{j}", 32 if j else 64, 32)
    s.conv("decoder.up.1.upsample.conv", 64, 64, 3)
    s.norm("encoder.norm_out", 64)
    s.conv("encoder.conv_out", 64, z, 3)
    s.norm("decoder.norm_out", 32)
    s.conv("decoder.conv_out", 32, 3, 3)
    for j in range(4):
        s.conv(f"quantize.quant_resi.qresi_ls.{j}", z, z, 3)
    s["quantize.ema_vocab_hit_SV"], s["quantize.embedding.weight"] = weight(3, codes), weight(codes, z)
    s.conv("quant_conv", z, z, 3)
    s.conv("post_quant_conv", z, z, 3)
    return s


def var(shared, l2):
    s, C = State(), 64
    s["pos_start"], s["pos_1LC"] = weight(1, 1, C), weight(1, 21, C)
    s["lvl_1L"] = Tensor((1, 21), Storage(torch.LongStorage, [0] + [1] * 4 + [2] * 16))
    s["attn_bias_for_masking"] = weight(1, 1, 21, 21)
    s.linear("word_embed", 8, C)
    s["class_emb.weight"], s["lvl_embed.weight"] = weight(5, C), weight(3, C)
    if shared:
        s.linear("shared_ada_lin.1", C, 6 * C)
    for i in range(2):
        block = f"blocks.{i}."
        if l2:
            s[block + "attn.scale_mul_1H11"] = Tensor((1, 4, 1, 1), Storage(torch.FloatStorage, [math.log(4)] * 4))
        both = Storage(torch.FloatStorage, weight(2 * C).storage.values)  # two tensors in one storage
        s[block + "attn.q_bias"], s[block + "attn.v_bias"] = Tensor((C,), both), Tensor((C,), both, C)
        s[block + "attn.zero_k_bias"] = Tensor((C,), Storage(torch.FloatStorage, [0.0] * C))
        s[block + "attn.mat_qkv.weight"] = weight(3 * C, C)
        s.linear(block + "attn.proj", C, C)
        s.linear(block + "ffn.fc1", C, 4 * C)
        s.linear(block + "ffn.fc2", 4 * C, C)
        if shared:
            s[block + "ada_gss"] = weight(1, 1, 6, C)
        else:
            s.linear(block + "ada_lin.1", C, 6 * C)
    s.linear("head_nm.ada_lin.1", C, 2 * C)
    s.linear("head", C, 32)
    turned = weight(C, 3 * C)  # stored as its transpose, with a gap at the beginning
    padded = Storage(torch.FloatStorage, [7.0] * 5 + turned.storage.values)
    s["blocks.1.attn.mat_qkv.weight"] = Tensor((3 * C, C), padded, 5, (1, 3 * C))
    s["head.weight"] = Tensor((32, C), Storage(torch.HalfStorage, [rng.randint(-64, 64) / 512 for _ in range(32 * C)]))
    s["head.bias"] = Tensor((32,), Storage(torch.BFloat16Storage, [0x3c00 + i for i in range(32)]))
    s["lvl_embed.weight"] = Tensor((3, C), Storage(torch.FloatStorage, [i / C for i in range(C)] * 3), 0, (C, 1))
    return s


class Pickler(pickle.Pickler):
    def __init__(self, f):
        super().__init__(f, 2)
        self.storages = []

    def persistent_id(self, x):
        if not isinstance(x, Storage):
            return None
        if x.key is None:
            x.key = str(len(self.storages))
            self.storages.append(x)
        return "storage", x.kind, x.key, "cuda:0", len(x.values)


def save(path, state, compression=zipfile.ZIP_STORED):
    plain = collections.OrderedDict(state)
    if isinstance(state, State):
        plain._metadata = collections.OrderedDict({"": {"version": 1}})
    folder = os.path.basename(path)[:-4]
    with zipfile.ZipFile(path, "w", compression) as z:
        with z.open(folder + "/data.pkl", "w") as f:
            p = Pickler(f)
            p.dump(plain)
        for s in p.storages:
            z.writestr(f"{folder}/data/{s.key}", s.data())
        z.writestr(folder + "/version", "3\n")


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def make(folder):
    os.chdir(folder)
    for name, s in ("vae", vae()), ("var", var(False, True)), ("shared", var(True, False)):
        save(name + ".pth", s)
        with open(name + ".pth.json", "w") as f:
            json.dump({n: [t.storage.kind.__name__, t.shape, t.values()] for n, t in s.items()}, f)
    save("codes.pth", vae(codes=31))
    save("channels.pth", vae(z=4))
    good = open("vae.pth", "rb").read()
    open("cut.pth", "wb").write(good[:len(good) // 2])
    at = len(good) // 2
    open("flipped.pth", "wb").write(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
    open("old.pth", "wb").write(pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2))
    save("attack.pth", {"encoder.conv_in.weight": Attack()})
    save("getattr.pth", {"x": getattr})
    save("trainer.pth", {"epoch": 3, "trainer": {}})
    save("deflated.pth", {"x": weight(3)}, zipfile.ZIP_DEFLATED)
    s = var(False, True)
    s["pos_1LC"].shape, s["pos_1LC"].stride = (1, 22, 64), (22 * 64, 64, 1)
    save("beyond.pth", s)
    s = var(False, True)
    s["blocks.0.attn.zero_k_bias"] = weight(64)
    save("bias.pth", s)
    s = var(False, True)
    del s["head.bias"], s["blocks.1.ffn.fc2.weight"]
    s["extra"], s["word_embed.bias"] = weight(3), weight(65)
    save("unfit.pth", s)
    save("nothing.pth", {"x": weight(3)})
    with zipfile.ZipFile("other.pth", "w") as z:
        z.writestr("a/readme.txt", "hello")


def compare(wanted, path):
    with open(wanted) as f:
        want = json.load(f)
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    assert n % 8 == 0 and header.pop("__metadata__")["format"] == "pt"
    gone = {"quantize.ema_vocab_hit_SV", "lvl_1L", "attn_bias_for_masking"} | {f"blocks.{i}.attn.zero_k_bias" for i in range(2)}
    assert set(header) == set(want) - gone, set(header) ^ set(want)
    for name, h in header.items():
        kind, shape, values = want[name]
        dtype, letter = {"FloatStorage": ("F32", "f"), "HalfStorage": ("F16", "e"), "BFloat16Storage": ("BF16", "H")}[kind]
        begin, end = h["data_offsets"]
        assert h["dtype"] == dtype and h["shape"] == shape, name
        assert list(struct.unpack(f"<{len(values)}{letter}", data[begin:end])) == values, name
    print(len(header), "tensors are equal")


if __name__ == "__main__":
    make(sys.argv[2]) if sys.argv[1] == "make" else compare(*sys.argv[2:])
