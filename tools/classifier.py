#!/usr/bin/env python3
"""Judge generated pictures with a small classifier that never saw the generator, and look for copies of training pictures.

    python3 tools/classifier.py --train DIR/train --val DIR/val [--samples DIR/samples] [--json]

Trains on an ImageFolder and prints: accuracy on the validation pictures, over all and as the mean of the classes; the share of
samples that it puts in the class they were made for (samples.json as `tessera sample --out DIR` writes it, classes counted from 0
in sorted order of their names); and how far samples and validation pictures are from their nearest training picture (root mean
square over pixels and channels, colours 0 to 1). Samples much nearer than validation pictures are copies.

The classifier is a residual network of 0.6 M weights. Rare classes are drawn more often (by one over the root of their size);
pictures are turned, scaled, shifted, tinted, mirrored and mixed (mixup, arXiv:1710.09412). A running mean of the weights judges,
and a picture and its mirror image are averaged. Needs torch, numpy and Pillow; about 15 minutes on two busy cores.
"""
import argparse
import copy
import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

WIDTH, BATCH, RATE = 32, 64, 2e-3


def fail(line):
    sys.exit(f"classifier.py: {line}")


def load(paths, size=None):
    """[n, Y, X, 3] float32 in 0..1; size: (X, Y) to resize to, None for that of the first picture."""
    pictures = []
    for path in paths:
        try:
            im = Image.open(path).convert("RGB")
        except OSError as e:
            fail(f"{path}: {e}")
        size = size or im.size
        if im.size != size:
            im = im.resize(size, Image.Resampling.LANCZOS)
        pictures.append(np.asarray(im, np.float32) / 255)
    return np.stack(pictures)


def load_folder(root, classes=None, size=None):
    names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if not names:
        fail(f"{root}: no class folders")
    if classes and not set(names) <= set(classes):
        fail(f"{root}: class folders {sorted(set(names) - set(classes))} are not among those of the training pictures")
    classes = classes or names
    paths = [(p, classes.index(n)) for n in names for p in sorted((root / n).iterdir())
             if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
    if not paths:
        fail(f"{root}: no pictures")
    return load([p for p, _ in paths], size), np.array([c for _, c in paths]), classes


def load_samples(root, n_classes, size):
    try:
        rows = json.loads((root / "samples.json").read_text())["samples"]
        pairs = [(root / row["file"], int(row["class"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as e:
        fail(f"{root / 'samples.json'}: {e!r}")
    if not pairs or not all(0 <= c < n_classes for _, c in pairs):
        fail(f"{root / 'samples.json'}: needs entries with a class of 0 to {n_classes - 1}")
    return load([p for p, _ in pairs], size), np.array([c for _, c in pairs])


class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
                                  nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o))
        self.skip = nn.Conv2d(i, o, 1, bias=False)

    def forward(self, x):
        return F.relu(self.skip(x) + self.body(x))


def network(n_classes):
    w = WIDTH
    return nn.Sequential(
        nn.Conv2d(3, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), Block(w, w), nn.MaxPool2d(2), Block(w, 2 * w), nn.MaxPool2d(2),
        Block(2 * w, 4 * w), nn.MaxPool2d(2), Block(4 * w, 4 * w), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(4 * w, n_classes))


def to_tensor(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2) * 2 - 1


def uniform(n, width):
    """n numbers of -width/2 to width/2."""
    return (torch.rand(n) - 0.5) * width


def vary(x):
    """Mirror, turn (up to 14 degrees), scale (20 %), shift (15 % of half a side), tint."""
    n = len(x)
    x = torch.where((torch.rand(n) < 0.5)[:, None, None, None], x.flip(3), x)
    angle, scale = uniform(n, 0.5), 1 + uniform(n, 0.4)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cos, -sin, uniform(n, 0.3), sin, cos, uniform(n, 0.3)], 1).view(n, 2, 3)
    x = F.grid_sample(x, F.affine_grid(rows, x.shape, align_corners=False), padding_mode="border", align_corners=False)
    return x * (1 + uniform((n, 3, 1, 1), 0.4)) + uniform((n, 3, 1, 1), 0.3)


def mean_weights(mean, net, keep):
    for a, b in zip(mean.state_dict().values(), net.state_dict().values()):
        if a.dtype.is_floating_point:
            a.lerp_(b, 1 - keep)
        else:
            a.copy_(b)


class Classifier:
    def __init__(self, x, y, n_classes, steps, seed):
        torch.manual_seed(seed)
        x, y = to_tensor(x), torch.from_numpy(y)
        rarity = torch.bincount(y, minlength=n_classes).clamp(min=1).double().rsqrt()[y]
        net = network(n_classes)
        self.net = copy.deepcopy(net)
        optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
        for _ in range(steps):
            drawn = torch.multinomial(rarity, BATCH, replacement=True)
            picture, label, other = vary(x[drawn]), y[drawn], torch.randperm(BATCH)
            share = float(np.random.default_rng(torch.randint(2**31, ()).item()).beta(0.2, 0.2))
            logits = net(picture.lerp(picture[other], 1 - share))
            loss = sum(w * F.cross_entropy(logits, t, label_smoothing=0.1) for w, t in ((share, label), (1 - share, label[other])))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                mean_weights(self.net, net, 0.99)
        self.net.eval()

    @torch.no_grad()
    def __call__(self, x):
        x = to_tensor(x)
        return (self.net(x).softmax(-1) + self.net(x.flip(3)).softmax(-1)).argmax(-1).numpy()


def nearest_distance(x, train):
    """For each picture the root mean square difference to the nearest training picture."""
    a, b = x.reshape(len(x), -1).astype(np.float64), train.reshape(len(train), -1).astype(np.float64)
    squares = (a * a).sum(-1)[:, None] - 2 * a @ b.T + (b * b).sum(-1)
    return np.sqrt(np.maximum(squares.min(-1), 0) / a.shape[1])


def main():
    p = argparse.ArgumentParser(description="Classify samples and validation pictures; measure distance to training pictures.")
    p.add_argument("--train", required=True, type=pathlib.Path, help="ImageFolder to train on")
    p.add_argument("--val", required=True, type=pathlib.Path, help="ImageFolder to validate on")
    p.add_argument("--samples", type=pathlib.Path, help="folder with pictures and samples.json")
    p.add_argument("--steps", type=int, default=2000, help="training steps of 64 pictures (default 2000)")
    p.add_argument("--seed", type=int, default=0, help="default 0")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    o = p.parse_args()

    train, labels, classes = load_folder(o.train)
    size = train.shape[2], train.shape[1]
    val, val_labels, _ = load_folder(o.val, classes, size)
    samples, wanted = load_samples(o.samples, len(classes), size) if o.samples else (None, None)
    classify = Classifier(train, labels, len(classes), o.steps, o.seed)

    right = classify(val) == val_labels
    result = {"train": len(train), "val": len(val), "val_accuracy": right.mean(),
              "val_per_class": {c: right[val_labels == i].mean() for i, c in enumerate(classes) if (val_labels == i).any()},
              "val_distance": nearest_distance(val, train).mean()}
    if o.samples:
        hit = classify(samples) == wanted
        result |= {"samples": len(samples), "sample_accuracy": hit.mean(),
                   "sample_per_class": {c: hit[wanted == i].mean() for i, c in enumerate(classes) if (wanted == i).any()},
                   "sample_distance": nearest_distance(samples, train).mean()}
    for what in ("val", "sample"):
        if f"{what}_per_class" in result:
            result[f"{what}_balanced"] = np.mean(list(result[f"{what}_per_class"].values()))
    if o.json:
        print(json.dumps(result, default=float))
        return
    for what in ("val", "sample"):
        if f"{what}_accuracy" in result:
            n = result["val" if what == "val" else "samples"]
            print(f"{what}: {n} pictures, {100 * result[f'{what}_accuracy']:.1f} % in their class "
                  f"({100 * result[f'{what}_balanced']:.1f} % when every class counts the same), "
                  f"{result[f'{what}_distance']:.4f} from the nearest training picture")
            for c, share in result[f"{what}_per_class"].items():
                print(f"  {c:24}{100 * share:6.1f} %")


if __name__ == "__main__":
    main()
