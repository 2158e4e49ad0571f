#!/usr/bin/env python3
"""Judge generated pictures with a small classifier that never saw the generator, and look for copies of training pictures.

    python3 tools/classifier.py --train DIR/train --val DIR/val [--samples DIR/samples] [--json]

Trains on an ImageFolder and prints: accuracy on the validation pictures; the share of samples that it puts in the class
they were made for (samples.json as `tessera sample --out DIR` writes it, classes counted from 0 in sorted order of their
names); and how far samples and validation pictures are from their nearest training picture (root mean square over pixels
and channels, colours 0 to 1). Samples much nearer than validation pictures are copies.

The classifier (Coates, Lee, Ng 2011): whitened 6x6 patches, soft distances to k-means centres, summed over a 3x3 grid, then
kernel ridge regression with a Gaussian kernel; a picture and its mirror image are averaged. Needs numpy and Pillow.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
from PIL import Image

PATCH = 6
CELLS = 3  # features are summed over CELLS x CELLS parts of the picture
WIDTH, RIDGE = 0.5, 0.03  # of the Gaussian kernel, in units of the median squared distance; and of the regression


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


def patches_of(x):
    """[n, Y-5, X-5, 108]: all patches, each with mean 0 and about unit deviation."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (PATCH, PATCH), axis=(1, 2))
    p = windows.reshape(*windows.shape[:3], -1)
    p = p - p.mean(-1, keepdims=True)
    return p / np.sqrt(p.var(-1, keepdims=True) + 0.01)


class Features:
    def __init__(self, x, n_centres, rng):
        p = np.concatenate([patches_of(x[i:i + 64]).reshape(-1, PATCH * PATCH * 3)[::7] for i in range(0, len(x), 64)])
        p = p[p.std(-1) > 0.1]  # flat background teaches nothing
        p = p[rng.permutation(len(p))[:60000]]
        self.mean = p.mean(0)
        values, vectors = np.linalg.eigh(np.cov(p - self.mean, rowvar=False))
        self.white = (vectors / np.sqrt(values + 0.1) @ vectors.T).astype(np.float32)
        p = (p - self.mean) @ self.white
        c = p[:n_centres].copy()
        for _ in range(12):
            nearest = (p @ c.T - 0.5 * (c * c).sum(-1)).argmax(-1)
            sums = np.zeros_like(c)
            np.add.at(sums, nearest, p)
            count = np.bincount(nearest, minlength=n_centres)
            c = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], p[rng.integers(0, len(p), n_centres)])
        self.centres = c.astype(np.float32)

    def __call__(self, x):
        return np.concatenate([self.some(x[i:i + 16]) for i in range(0, len(x), 16)])

    def some(self, x):
        p = (patches_of(x) - self.mean) @ self.white
        n, rows, columns = p.shape[:3]
        p = p.reshape(-1, p.shape[-1]).astype(np.float32)
        d = np.sqrt(np.maximum((p * p).sum(-1)[:, None] - 2 * p @ self.centres.T + (self.centres**2).sum(-1), 0))
        d = np.maximum(d.mean(-1, keepdims=True) - d, 0).reshape(n, rows, columns, -1)
        cut = [[part[0], part[-1] + 1] for part in np.array_split(np.arange(rows), CELLS)]
        cut_x = [[part[0], part[-1] + 1] for part in np.array_split(np.arange(columns), CELLS)]
        return np.concatenate([np.sqrt(d[:, a:b, c:e].mean((1, 2))) for a, b in cut for c, e in cut_x], -1)


class Classifier:
    def __init__(self, x, y, n_classes, n_centres, rng):
        self.features = Features(x, n_centres, rng)
        f = self.features(x)
        self.mean, self.scale = f.mean(0), f.std(0) + 0.01
        self.f = (f - self.mean) / self.scale
        squares = self.squares(self.f)
        self.unit = np.median(squares[:500])
        kernel = np.exp(-WIDTH * squares / self.unit)
        kernel[np.diag_indices(len(y))] += RIDGE
        target = np.where(np.arange(n_classes) == y[:, None], 1, -1).astype(np.float32)
        self.weight = np.linalg.solve(kernel, target)

    def squares(self, f):
        """Squared distances to the training pictures, in features."""
        return np.maximum((f * f).sum(-1)[:, None] - 2 * f @ self.f.T + (self.f * self.f).sum(-1), 0)

    def __call__(self, x):
        score = 0
        for side in (x, x[:, :, ::-1]):
            f = (self.features(side) - self.mean) / self.scale
            score = score + np.exp(-WIDTH * self.squares(f) / self.unit) @ self.weight
        return score.argmax(-1)


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
    p.add_argument("--centres", type=int, default=600, help="features per cell (default 600)")
    p.add_argument("--seed", type=int, default=0, help="default 0")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    o = p.parse_args()

    train, labels, classes = load_folder(o.train)
    size = train.shape[2], train.shape[1]
    val, val_labels, _ = load_folder(o.val, classes, size)
    samples, wanted = load_samples(o.samples, len(classes), size) if o.samples else (None, None)
    classify = Classifier(train, labels, len(classes), o.centres, np.random.default_rng(o.seed))

    right = classify(val) == val_labels
    result = {"train": len(train), "val": len(val), "val_accuracy": right.mean(),
              "val_per_class": {c: right[val_labels == i].mean() for i, c in enumerate(classes) if (val_labels == i).any()},
              "val_distance": nearest_distance(val, train).mean()}
    if o.samples:
        hit = classify(samples) == wanted
        result |= {"samples": len(samples), "sample_accuracy": hit.mean(),
                   "sample_per_class": {c: hit[wanted == i].mean() for i, c in enumerate(classes) if (wanted == i).any()},
                   "sample_distance": nearest_distance(samples, train).mean()}
    if o.json:
        print(json.dumps(result, default=float))
        return
    for what in ("val", "sample"):
        if f"{what}_accuracy" in result:
            n = result["val" if what == "val" else "samples"]
            print(f"{what}: {n} pictures, {100 * result[f'{what}_accuracy']:.1f} % in their class, "
                  f"{result[f'{what}_distance']:.4f} from the nearest training picture")
            for c, share in result[f"{what}_per_class"].items():
                print(f"  {c:24}{100 * share:6.1f} %")


if __name__ == "__main__":
    main()
