#!/usr/bin/env python3
"""Make a small labelled picture set out of the colour emoji font: DIR/train/CLASS/*.png and DIR/val/CLASS/*.png.

Pictures: every fully-qualified emoji of Unicode's emoji-test.txt that the font draws as one glyph, on white, padded to a
square and resized with LANCZOS. Classes: the nine groups of that file, in its order. Variants of one emoji (skin tone,
hair, gender) are on the same side of the split, so that validation shows emoji whose relatives were never seen.

Needs Pillow with raqm (the wheels of PyPI have it), and from Debian: fonts-noto-color-emoji, unicode-data.

    python3 tools/datasets/emoji.py --out DIR [--size 32] [--val 0.08]
"""
import argparse
import hashlib
import pathlib
import re
import sys

from PIL import Image, ImageDraw, ImageFont, features

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LIST = "/usr/share/unicode/emoji/emoji-test.txt"
STRIKE = 109  # the only size the font's bitmaps exist in: 136 x 128 pixels a glyph
CELL = (136, 128)

SKIN = set(range(0x1F3FB, 0x1F400))
DROPPED = SKIN | set(range(0x1F9B0, 0x1F9B4)) | {0x2640, 0x2642, 0xFE0F, 0x200D}  # skin, hair, gender, selectors, joiner
SAME = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1,  # man, woman -> person
        0x1F466: 0x1F9D2, 0x1F467: 0x1F9D2,  # boy, girl -> child
        0x1F474: 0x1F9D3, 0x1F475: 0x1F9D3,  # old man, old woman -> older person
        0x1F936: 0x1F385, 0x1F478: 0x1F934, 0x1FAC5: 0x1F934}  # Mrs. Claus; princess, person with crown
GENDER = re.compile(r"\b(woman|man|person|women|men|people|boy|girl|child)\b(?!’)")
NAMES = {"mx claus": "santa claus", "and holding hands": "holding hands"}
NO_FAMILY = {"flag", "keycap"}  # "flag: Chad" is not a variant of "flag: Peru"


def fail(line):
    sys.exit(f"emoji.py: {line}")


def read_list(path):
    """[(class, code points, name)] in the file's order; the group Component (bare skin tones) holds no picture."""
    emoji, groups, group = [], [], None
    try:
        lines = open(path, encoding="utf-8").read().splitlines()
    except OSError as e:
        fail(f"{path}: {e.strerror} (Debian package unicode-data)")
    for line in lines:
        if line.startswith("# group: "):
            group = line[len("# group: "):]
            if group != "Component":
                groups.append(group)
        row = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
        if row and group != "Component":
            words = re.sub(r"[^a-z]+", "-", group.lower()).strip("-")
            emoji.append((f"{len(groups) - 1}-{words}", tuple(int(c, 16) for c in row[1].split()), row[2]))
    return emoji


def keys(codes, name):
    """Two emoji are variants of one another if they share a key."""
    stem = name.split(":")[0]
    if stem in NO_FAMILY:
        stem = name
    stem = " ".join(GENDER.sub("", stem).split())
    bare = tuple(SAME.get(c, c) for c in codes if c not in DROPPED)
    return [("codes", bare)] + ([("name", NAMES.get(stem, stem))] if stem else [])


def find_bases(emoji):
    """For each emoji the name of its family's first member: connected components over shared keys."""
    parent = list(range(len(emoji)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    first = {}
    for i, (_, codes, name) in enumerate(emoji):
        for key in keys(codes, name):
            a, b = sorted((root(first.setdefault(key, i)), root(i)))
            parent[b] = a
    return [emoji[root(i)][2] for i in range(len(emoji))]


def draw(font, codes):
    """The glyph on white, or None if the font has no single glyph for the sequence."""
    text = "".join(map(chr, codes))
    if round(font.getlength(text)) != CELL[0]:
        return None
    cell = Image.new("RGBA", CELL, (255, 255, 255, 0))
    left, top, _, _ = font.getbbox(text)
    ImageDraw.Draw(cell).text((-left, -top), text, font=font, embedded_color=True)
    if cell.getchannel("A").getextrema()[1] == 0:
        return None
    side = max(CELL)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(cell, ((side - CELL[0]) // 2, (side - CELL[1]) // 2))
    return square.convert("RGB")


def in_validation(base, share):
    digest = hashlib.sha256(base.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def main():
    p = argparse.ArgumentParser(description="Make an ImageFolder of colour emoji, split by base emoji.")
    p.add_argument("--out", required=True, type=pathlib.Path, help="folder for train/ and val/")
    p.add_argument("--size", type=int, default=32, help="side in pixels, 8 to 136 (default 32)")
    p.add_argument("--val", type=float, default=0.08, help="share of base emoji for validation (default 0.08)")
    p.add_argument("--font", default=FONT, help=f"default {FONT}")
    p.add_argument("--list", default=LIST, help=f"default {LIST}")
    o = p.parse_args()
    if not 8 <= o.size <= 136:
        fail(f"--size {o.size}: 8 to 136 is possible")
    if not 0 <= o.val < 1:
        fail(f"--val {o.val}: 0 <= share < 1 is possible")
    if not features.check("raqm"):
        fail("this Pillow has no raqm, which joins emoji sequences into one glyph; the wheels of PyPI have it")
    try:
        font = ImageFont.truetype(o.font, STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as e:
        fail(f"{o.font}: {e} (Debian package fonts-noto-color-emoji)")

    emoji = read_list(o.list)
    bases = find_bases(emoji)
    missing_picture = draw(font, (0x10FFFF,))
    missing_picture = missing_picture and missing_picture.tobytes()
    seen, counts, missing, twins = set(), {}, 0, 0
    for (name, codes, _), base in zip(emoji, bases):
        picture = draw(font, codes)
        if picture is None or picture.tobytes() == missing_picture:
            missing += 1
            continue
        picture = picture.resize((o.size, o.size), Image.Resampling.LANCZOS)
        if (name, picture.tobytes()) in seen:
            twins += 1
            continue
        seen.add((name, picture.tobytes()))
        side = in_validation(base, o.val)
        folder = o.out / ("val" if side else "train") / name
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / ("-".join(f"{c:04x}" for c in codes) + ".png"), optimize=False)
        counts.setdefault(name, [0, 0])[side] += 1

    print(f"{'class':24}{'train':>8}{'val':>8}")
    for name, (train, val) in counts.items():
        print(f"{name:24}{train:8}{val:8}")
    total = [sum(c[side] for c in counts.values()) for side in (0, 1)]
    print(f"{'total':24}{total[0]:8}{total[1]:8}")
    print(f"{len(set(bases))} base emoji of {len(emoji)} listed; left out: {missing} without a glyph, "
          f"{twins} identical to another of their class")


if __name__ == "__main__":
    main()
