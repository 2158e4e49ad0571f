#!/usr/bin/env python3
"""tessera beside PyTorch: the same model files, the same answers, both timed in turn in one run.

    python3 tools/compare/weights.py --depth 16 --out W
    python3 tools/compare/compare.py --tokenizer W/tokenizer.safetensors --generator W/generator.safetensors --batch 1,8

First the answers, in float32: tokens of random pictures, and pictures sampled greedily (top-k 1, guidance 1.5); with --stages also
what lies between: the sum after every scale, the decoder, and the transformer's bits for the tokens of every scale. Then the time of
sampling (decode included) and of encoding: tessera with --dtype f32 and bf16 (where the CPU has it), PyTorch in float32, and
PyTorch as fast as it can be made: bf16 autocast, channels last, its fused attention, torch.compile; what fails to run is named.
Rounds alternate, so that a busy machine slows both. Needs torch, numpy, safetensors and Pillow.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import networks

CFG = 1.5


def fail(line):
    sys.exit(f"compare.py: {line}")


def load(path, build):
    with safe_open(path, "pt") as f:
        config = json.loads(f.metadata()["tessera"])
    for extra in ("tokenizer", "classes"):
        config.pop(extra, None)
    module = build(config)
    module.load_state_dict(load_file(path))
    return module.eval().requires_grad_(False), config


F32 = "--dtype", "f32"  # what is compared stage by stage


def tessera(o, *words, wants_json=False):
    r = subprocess.run([o.tessera, *map(str, words), "--threads", str(o.threads), *(["--json"] if wants_json else [])],
                       capture_output=True, text=True)
    if r.returncode:
        fail(f"{' '.join(map(str, words))}: {r.stderr.strip().splitlines()[-1:] or r.returncode}")
    return json.loads(r.stdout) if wants_json else r.stdout


def random_pictures(n, side, folder):
    rng = np.random.default_rng(1)
    pictures = []
    for i in range(n):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        pictures.append(np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)))
        Image.fromarray(pictures[-1]).save(folder / f"{i:04}.png")
    return np.stack(pictures)


def to_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def greedy(logits):
    return logits.argmax(-1)


def draw(logits):
    """Temperature 1 without limits, as `tessera bench sample` draws."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


def check_encode(o, t, pictures, tmp):
    folder, out = tmp / "pictures", tmp / "tokens"
    tessera(o, "tokenize", *F32, "--tokenizer", o.tokenizer, "--preprocess", "none", "--out", out, folder)
    got = torch.cat([load_file(f)["tokens"].long() for f in sorted(out.glob("*.safetensors"))])
    want = t.encode(to_tensor(pictures))
    print(f"tokens of {len(pictures)} pictures: {(got == want).float().mean() * 100:.2f} % of {want.numel()} equal")
    return bool((got == want).all())


def difference(what, got, want, limit):
    worst = max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(got, want, strict=True))
    print(f"{what}: relative difference {worst:.1e}, limit {limit:.0e}")
    return worst <= limit


def check_pictures(what, folder, want):
    got = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in sorted(folder.glob("0*.png"))])
    worst = np.abs(got - ((want + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()).max()
    print(f"{what}: at most {worst:.0f} of 255 apart (one other token changes far more)")
    return worst <= 1


def check_stages(o, t, g, pictures, tmp):
    """Given equal tokens: sums and transformer scale by scale for the first picture, the decoder for all."""
    f, out = t.latent(to_tensor(pictures)), tmp / "decoded"
    tokens = t.quantize(f)
    sums = t.quantize.sums_of(tokens)
    tessera(o, "decode", *F32, "--tokenizer", o.tokenizer, "--out", out, tmp / "tokens")
    same = check_pictures("decoder, pictures of the same tokens", out, t.decode(sums[-1]))
    one = tmp / "one"
    one.mkdir()
    (one / "0000.png").write_bytes((tmp / "pictures" / "0000.png").read_bytes())
    rows = tessera(o, "eval", *F32, "--tokenizer", o.tokenizer, "--generator", o.generator, "--preprocess", "none", "--data", one,
                   wants_json=True)["scales"]
    rest = [(f[:1] - s[:1]).square().mean().sqrt().item() for s in sums]
    same &= difference("quantizer, what is left after every scale", [r["residual_rms"] for r in rows], rest, 1e-4)
    bits = g.bits(t, tokens[:1], torch.tensor([g.classes]))
    return difference("transformer, bits of every scale", [r["bits"] for r in rows], bits, 2e-5) and same


def check_sample(o, t, g, tmp):
    out = tmp / "samples"
    tessera(o, "sample", *F32, "--tokenizer", o.tokenizer, "--generator", o.generator, "--class", "1,7", "-n", 1, "--top-k", 1,
            "--cfg", CFG, "--batch", 2, "--out", out)
    _, f_hat = g.sample(t, torch.tensor([1, 7]), CFG, greedy)
    return check_pictures("sampling, greedy pictures of classes 1 and 7", out, t.decode(f_hat))


class Torch:
    """One way to run the networks in PyTorch."""

    def __init__(self, name, t, g, autocast=False, channels_last=False, compiled=False):
        self.name, self.t, self.g, self.autocast = name, t, g, autocast
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.decode, self.encode = t.decode, t.encode
        if compiled:
            self.decode, self.encode = torch.compile(t.decode), torch.compile(t.encode)

    def run(self, f, *args):
        self.t.to(memory_format=self.layout)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            start = time.perf_counter()
            f(*args)
            return time.perf_counter() - start

    def sample(self, batch):
        def work():
            _, f_hat = self.g.sample(self.t, torch.arange(batch) % self.g.classes, CFG, draw)
            self.decode(f_hat.contiguous(memory_format=self.layout))
        return self.run(work)

    def encoding(self, batch, side):
        x = torch.rand(batch, 3, side, side) * 2 - 1
        return self.run(lambda: self.encode(x.contiguous(memory_format=self.layout)))


class Tessera:
    def __init__(self, o, dtype):
        self.o, self.dtype, self.name = o, dtype, f"tessera {dtype}"

    def bench(self, what, stage, batch):
        words = ["bench", what, "--tokenizer", self.o.tokenizer, "--batch", batch, "--seconds", 0, "--dtype", self.dtype]
        rows = tessera(self.o, *words, *(["--generator", self.o.generator] if what == "sample" else []), wants_json=True)
        rows = rows["results"] if isinstance(rows, dict) else rows
        return next(r["median_ms"] for r in rows if r.get("stage") == stage) / 1e3

    def sample(self, batch):
        return self.bench("sample", "pictures", batch)

    def encoding(self, batch, side):
        return self.bench("tokenize", "encode", batch)


def cpu_has_bf16():
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def ways(o, t, g):
    out = [Tessera(o, "f32"), Torch("PyTorch float32", t, g), Torch("PyTorch float32 channels last", t, g, channels_last=True)]
    if cpu_has_bf16():
        out += [Tessera(o, "bf16"), Torch("PyTorch bf16 autocast channels last", t, g, True, True)]
    if o.compile:
        bf16 = cpu_has_bf16()
        out.append(Torch(f"PyTorch compiled{' bf16' if bf16 else ''}", t, g, bf16, True, True))
    names = [w.name for w in out]
    for name in filter(None, o.skip.split(",")):
        if name not in names:
            fail(f"--skip {name}: expected one of {', '.join(names)}")
    return [w for w in out if w.name not in o.skip.split(",")]


def time_all(o, what, batch, contestants, one):
    """Alternating rounds; a first one for each warms up and is not counted."""
    seconds = {}
    for round_ in range(o.rounds + 1):
        for w in contestants:
            if seconds.get(w.name, []) is None:
                continue
            try:
                s = one(w)
            except Exception as e:  # noqa: BLE001  a way PyTorch cannot go is named and left out
                print(f"{w.name}: left out: {str(e).splitlines()[0][:120]}", file=sys.stderr)
                seconds[w.name] = None
                continue
            if round_:
                seconds.setdefault(w.name, []).append(s)
    seconds = {k: v for k, v in seconds.items() if v}
    base = statistics.median(seconds["PyTorch float32"]) if "PyTorch float32" in seconds else None
    for name, s in seconds.items():
        m = statistics.median(s)
        times = f"{base / m:.2f}" if base else "-"
        print(f"| {what} | {batch} | {name} | {m:.2f} ({min(s):.2f}-{max(s):.2f}) | {batch / m:.3f} | {times} |")


def main():
    p = argparse.ArgumentParser(description="tessera beside PyTorch: equal answers, then speed.")
    p.add_argument("--tokenizer", required=True, help="model file (vq)")
    p.add_argument("--generator", required=True, help="model file (joint head)")
    p.add_argument("--tessera", default="build/tessera", help="the program (default build/tessera)")
    p.add_argument("--batch", default="1,8", help="batch sizes to time (default 1,8)")
    p.add_argument("--threads", type=int, default=2, help="for both (default 2)")
    p.add_argument("--rounds", type=int, default=3, help="timed rounds; 0: answers only (default 3)")
    p.add_argument("--stages", action="store_true", help="compare every stage, not just tokens and pictures")
    p.add_argument("--compile", action="store_true", help="torch.compile too (needs a C++ compiler)")
    p.add_argument("--skip", default="", help="ways not to time, by their names in the table, with commas between")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    t, config = load(o.tokenizer, networks.Tokenizer)
    g, _ = load(o.generator, networks.Generator)
    contestants = ways(o, t, g)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        (tmp / "pictures").mkdir()
        pictures = random_pictures(2, config["image_size"], tmp / "pictures")
        same = check_encode(o, t, pictures, tmp)
        if o.stages:
            same &= check_stages(o, t, g, pictures, tmp)
        same &= check_sample(o, t, g, tmp)
    if not same:
        fail("the two programs do not agree")
    if o.rounds:
        print(f"\nPyTorch {torch.__version__}, {o.threads} threads, median of {o.rounds} rounds\n")
        print("| what | batch | with | seconds (min-max) | pictures/s | times PyTorch float32 |\n|---|---|---|---|---|---|")
        for batch in map(int, o.batch.split(",")):
            time_all(o, "sample", batch, contestants, lambda w: w.sample(batch))
            time_all(o, "encode", batch, contestants, lambda w: w.encoding(batch, config["image_size"]))


if __name__ == "__main__":
    main()
