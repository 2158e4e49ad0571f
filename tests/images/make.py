#!/usr/bin/env python3
"""Make the pictures of this folder: every kind of PNG and JPEG that tests/host/test_image.c reads, and broken ones.

    python3 tests/images/make.py        needs numpy, Pillow, and cjpeg (Debian: libjpeg-turbo-progs)

The files are committed; running it again may change bytes (another zlib or libjpeg), never the kinds.
"""
import io
import pathlib
import struct
import subprocess
import zlib

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
W, H = 37, 23  # odd, and no multiple of a JPEG block
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def write(name, data):
    (HERE / name).write_bytes(data)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def samples(bits, channels, seed):
    """[H, W, channels] smooth shapes with noise, every value of the range reached."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[0:H, 0:W, 0:channels]
    v = 0.5 + 0.5 * np.sin(x / 5 + c) * np.cos(y / 4 - c) + rng.normal(0, 0.05, (H, W, channels))
    return np.rint(np.clip(v, 0, 1) * (2**bits - 1)).astype(np.uint16)


def pack_rows(v, bits):
    """Rows with filter byte 0, samples packed big-endian."""
    if v.size == 0:
        return b""
    rows = v.reshape(v.shape[0], -1)
    if bits == 16:
        body = rows.astype(">u2").view(np.uint8)
    elif bits == 8:
        body = rows.astype(np.uint8)
    else:
        ones = (rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        body = np.packbits(ones.reshape(rows.shape[0], -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in body)


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(bits, color, v, extra=b"", interlaced=False, size=None):
    rows = b"".join(pack_rows(v[y::dy, x::dx], bits) for x, y, dx, dy in ADAM7) if interlaced else pack_rows(v, bits)
    w, h = size or (v.shape[1], v.shape[0])
    head = struct.pack(">IIBBBBB", w, h, bits, color, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def palette(n):
    return chunk(b"PLTE", bytes((17 * i + 80 * c) % 256 for i in range(n) for c in range(3)))


def make_pngs():
    for bits in (1, 2, 4, 8, 16):
        write(f"grey{bits}.png", png(bits, GREY, samples(bits, 1, bits)))
    for bits in (1, 2, 4, 8):
        v = samples(bits, 1, 10 + bits)
        write(f"palette{bits}.png", png(bits, PALETTE, v, palette(2**bits)))
    for bits in (8, 16):
        write(f"rgb{bits}.png", png(bits, RGB, samples(bits, 3, 20 + bits)))
        write(f"rgba{bits}.png", png(bits, RGBA, samples(bits, 4, 21 + bits)))
        write(f"grey_alpha{bits}.png", png(bits, GREY_ALPHA, samples(bits, 2, 22 + bits)))
    v = samples(16, 1, 50) // 128  # 0..511: on both sides of the clip at 255
    write("grey16_dark.png", png(16, GREY, v))
    write("palette_alpha.png", png(8, PALETTE, samples(8, 1, 40), palette(256) + chunk(b"tRNS", bytes(range(256)))))
    write("palette_short.png", png(8, PALETTE, samples(8, 1, 41), palette(100)))  # indices beyond the palette
    write("grey_key.png", png(8, GREY, samples(8, 1, 42), chunk(b"tRNS", b"\0\x80")))
    write("grey16_key.png", png(16, GREY, samples(16, 1, 43), chunk(b"tRNS", b"\0\x80")))
    write("rgb_key.png", png(8, RGB, samples(8, 3, 44), chunk(b"tRNS", b"\0\x80\0\x80\0\x80")))
    write("rgb_extras.png", png(8, RGB, samples(8, 3, 45), chunk(b"gAMA", struct.pack(">I", 100000))
                                + chunk(b"sBIT", b"\5\5\5") + chunk(b"tEXt", b"Title\0tessera")
                                + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 5000))
                                + chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")))
    for bits, color in ((1, GREY), (16, GREY), (4, PALETTE), (8, RGB), (16, RGBA)):
        v = samples(bits, CHANNELS[color], 60 + bits)
        write(f"interlaced{bits}_{color}.png",
              png(bits, color, v, palette(16) if color == PALETTE else b"", interlaced=True))
    write("pixel.png", png(8, RGB, np.array([[[1, 2, 3]]])))


def make_jpegs():
    rgb = Image.fromarray(samples(8, 3, 70).astype(np.uint8))

    def save(name, im=rgb, **options):
        im.save(HERE / name, "JPEG", quality=85, **options)

    save("420.jpg", subsampling=2)
    save("422.jpg", subsampling=1)
    save("444.jpg", subsampling=0)
    save("rgb.jpg", keep_rgb=True)
    save("progressive.jpg", progressive=True)
    save("restarts.jpg", restart_marker_blocks=2)
    save("grey.jpg", rgb.convert("L"))
    save("jpeg_named.png", subsampling=0)
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by 90 degrees; ignored
    save("turned.jpg", exif=exif)
    cmyk = Image.fromarray(samples(8, 4, 71).astype(np.uint8), "CMYK")
    save("cmyk.jpg", cmyk)
    data = (HERE / "cmyk.jpg").read_bytes()
    at = data.index(b"Adobe") + 11
    write("ycck.jpg", data[:at] + b"\2" + data[at + 1:])  # the same numbers, declared as YCCK
    ppm = io.BytesIO()
    rgb.save(ppm, "PPM")
    for name, options in (("440.jpg", ["-sample", "1x2"]), ("411.jpg", ["-sample", "4x1"]),
                          ("arithmetic.jpg", ["-arithmetic"])):
        write(name, subprocess.run(["cjpeg", *options], input=ppm.getvalue(), stdout=subprocess.PIPE, check=True).stdout)
    write("png_named.jpg", (HERE / "rgb8.png").read_bytes())


def make_broken():
    p, j = (HERE / "rgb8.png").read_bytes(), (HERE / "420.jpg").read_bytes()
    write("bad_cut.png", p[:len(p) // 2])
    write("bad_cut.jpg", j[:len(j) * 3 // 4])
    write("bad_no_end.png", p[:-12])
    write("bad_crc.png", p[:len(p) - 20] + bytes([p[-20] ^ 1]) + p[len(p) - 19:])
    write("bad_huge.png", png(8, RGB, samples(8, 3, 80)[:1], size=(50000, 50000)))
    write("bad_huge_side.png", png(1, GREY, samples(1, 1, 81)[:1], size=(2**31 - 1, 1)))
    write("bad_bomb.png", png(8, RGB, samples(8, 3, 82)[:1], size=(12000, 12000)))
    at = j.index(b"\xff\xc0") + 5
    write("bad_huge.jpg", j[:at] + struct.pack(">HH", 65500, 65500) + j[at + 4:])
    write("bad_bomb.jpg", j[:at] + struct.pack(">HH", 13000, 13000) + j[at + 4:])
    write("bad_zero.png", png(8, RGB, samples(8, 3, 83), size=(0, 5)))
    write("bad_no_palette.png", png(8, PALETTE, samples(8, 1, 84)))
    write("bad_text.png", b"this is not a picture\n")
    write("bad_empty.png", b"")
    write("bad_header.jpg", j[:20])
    full = (HERE / "444.jpg").read_bytes()
    sof, sos = full.index(b"\xff\xc0"), full.index(b"\xff\xda")
    write("bad_components.jpg",  # header and scan of the first two of three components
          full[:sof + 2] + b"\0\x0e" + full[sof + 4:sof + 9] + b"\2" + full[sof + 10:sof + 16] + full[sof + 19:sos + 2]
          + b"\0\x0a\2" + full[sos + 5:sos + 9] + full[sos + 11:])
    prog = (HERE / "progressive.jpg").read_bytes()
    first = prog.index(b"\xff\xda")
    second = prog.index(b"\xff\xc4", first)  # tables of the second scan
    third = prog.index(b"\xff\xc4", prog.index(b"\xff\xda", second))
    write("bad_scans.jpg", prog[:second] + prog[second:third] * 150 + b"\xff\xd9")


if __name__ == "__main__":
    make_pngs()
    make_jpegs()
    make_broken()
