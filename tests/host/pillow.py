"""What Pillow says: the oracle of test_image.c and test_resize.c. Exit code 77: no Pillow here.

    pillow.py decode OUT FILE...   OUT: for each file int32 width, height, then RGB bytes; 0, 0 if Pillow refuses it
    pillow.py resize IN OUT        IN: cases of int32 kind, in width, in height, a, b, then RGB bytes; OUT as above
                                   kind 0, 1, 2: resize to a x b with box, bicubic, lanczos; 3: VAR to a; 4: ADM to a
"""
import struct
import sys
import warnings

try:
    from PIL import Image
except ImportError:
    sys.exit(77)

FILTERS = [Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]


def stretch(im, size, how):
    """Columns, then rows. Pillow did so for every picture until version 13, which begins with the rows where the height
    shrinks by more than twice as many pixels as the width; two calls give the older order on every version."""
    return im.resize((size[0], im.size[1]), how).resize(size, how)


def centre_crop(im, size, top, left):
    return im.crop((left, top, left + size, top + size))


def var(im, size):
    """torchvision's Resize(round(1.125*size), LANCZOS) and CenterCrop(size)."""
    mid = round(1.125 * size)
    w, h = im.size
    short, long = min(w, h), max(w, h)
    if short != mid:
        longer = int(mid * long / short)
        im = stretch(im, (mid, longer) if w <= h else (longer, mid), FILTERS[2])
    w, h = im.size
    return centre_crop(im, size, int(round((h - size) / 2.0)), int(round((w - size) / 2.0)))


def adm(im, size):
    """guided-diffusion's centre crop."""
    while min(im.size) >= 2 * size:
        im = stretch(im, (im.size[0] // 2, im.size[1] // 2), FILTERS[0])
    scale = size / min(im.size)
    im = stretch(im, (round(im.size[0] * scale), round(im.size[1] * scale)), FILTERS[1])
    return centre_crop(im, size, (im.size[1] - size) // 2, (im.size[0] - size) // 2)


def put(out, im):
    out.write(struct.pack("<2i", *im.size) + im.tobytes() if im else struct.pack("<2i", 0, 0))


def resize(source, target):
    with open(source, "rb") as f, open(target, "wb") as out:
        while head := f.read(20):
            kind, w, h, a, b = struct.unpack("<5i", head)
            im = Image.frombytes("RGB", (w, h), f.read(3 * w * h))
            put(out, var(im, a) if kind == 3 else adm(im, a) if kind == 4 else stretch(im, (a, b), FILTERS[kind]))


def decode(target, files):
    with open(target, "wb") as out:
        for name in files:
            try:
                put(out, Image.open(name).convert("RGB"))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                put(out, None)


warnings.simplefilter("ignore")
if sys.argv[1] == "resize":
    resize(sys.argv[2], sys.argv[3])
else:
    decode(sys.argv[2], sys.argv[3:])
