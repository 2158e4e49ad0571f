#!/usr/bin/env python3
"""Write tests/fuzz/corpus/safetensors: every rule of the format at its boundary and one step beside it.

Files called ok-* must be accepted, files called bad-* refused. No library: the bytes are made by hand.
"""
import json
import pathlib
import struct

OUT = pathlib.Path(__file__).parent / "corpus" / "safetensors"
ONE = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def file(header, data=0, length=None):
    """Header text, `data` bytes behind it, and the length field if it is not to be the true one."""
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(i % 251 for i in range(data))


def tensor(dtype="U8", shape=(1,), begin=0, end=None, **more):
    size = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
            "F64": 8, "I64": 8, "U64": 8}.get(dtype, 1)
    for n in shape:
        size *= n
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + size if end is None else end], **more}


def entries(data, **tensors):
    return file(json.dumps(tensors, separators=(",", ":")), data)


def without(key):
    t = tensor()
    del t[key]
    return t


FILES = {
    # the length field
    "bad-empty": b"",
    "bad-7-bytes": bytes(7),
    "bad-8-bytes": bytes(8),
    "bad-header-1-over-file": file(ONE, 0, len(ONE) + 1),
    "bad-header-1-short": file(ONE, 4, len(ONE) - 1),
    "bad-header-at-cap": file("{}", 0, 100000000),
    "bad-header-over-cap": file("{}", 0, 100000001),
    "bad-header-2-63": file("{}", 0, 1 << 63),
    "bad-header-2-64-minus-8": file("{}", 0, (1 << 64) - 8),
    "bad-header-2-64-minus-1": file("{}", 0, (1 << 64) - 1),
    # the JSON
    "ok-no-tensor": file("{}"),
    "ok-padded": file("{}      "),
    "ok-space-in-front": file(" \n\t{}"),
    "bad-nul-behind": file("{}\0"),
    "bad-text-behind": file("{}x"),
    "bad-list": file("[]"),
    "bad-number": file("1"),
    "bad-cut-off": file(ONE[:-1], 4),
    "bad-utf8": file(b'{"\xff":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    "ok-utf8": entries(1, **{"\u00e9\u4e2d\U0001f600": tensor()}),
    "ok-empty-name": entries(1, **{"": tensor()}),
    "bad-duplicate-name": file(ONE[:-1] + "," + ONE[1:], 4),
    "bad-duplicate-field": file('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    "bad-nested-deep": file("[" * 3000 + "]" * 3000),
    # __metadata__
    "ok-metadata": entries(0, __metadata__={"format": "pt", "k": ""}),
    "ok-metadata-empty": entries(0, __metadata__={}),
    "bad-metadata-number": entries(0, __metadata__={"k": 1}),
    "bad-metadata-null": entries(0, __metadata__={"k": None}),
    "bad-metadata-list": entries(0, __metadata__=[]),
    "bad-metadata-twice": file('{"__metadata__":{},"__metadata__":{}}'),
    "bad-metadata-key-twice": file('{"__metadata__":{"k":"1","k":"2"}}'),
    # fields
    "bad-no-dtype": entries(1, a=without("dtype")),
    "bad-no-shape": entries(1, a=without("shape")),
    "bad-no-offsets": entries(1, a=without("data_offsets")),
    "bad-extra-field": entries(1, a=tensor(more=1)),
    "bad-entry-list": entries(1, a=[]),
    "bad-entry-null": entries(0, a=None),
    # dtype
    "ok-every-dtype": entries(47, a=tensor("BOOL"), b=tensor("U8", begin=1), c=tensor("I8", begin=2),
                              d=tensor("I16", begin=3), e=tensor("U16", begin=5), f=tensor("F16", begin=7),
                              g=tensor("BF16", begin=9), h=tensor("I32", begin=11), i=tensor("U32", begin=15),
                              j=tensor("F32", begin=19), k=tensor("F64", begin=23), l=tensor("I64", begin=31),
                              m=tensor("U64", begin=39)),
    "bad-dtype-case": entries(1, a=tensor("u8")),
    "bad-dtype-unknown": entries(1, a=tensor("F8_E4M3")),
    "bad-dtype-number": file('{"a":{"dtype":1,"shape":[1],"data_offsets":[0,1]}}', 1),
    # shape
    "ok-rank-0": entries(4, a=tensor("F32", ())),
    "ok-rank-8": entries(1, a=tensor("U8", (1,) * 8)),
    "bad-rank-9": entries(1, a=tensor("U8", (1,) * 9)),
    "ok-dimension-0": entries(0, a=tensor("F32", (0,))),
    "bad-dimension-minus-1": entries(0, a=tensor("F32", (-1,), 0, 0)),
    "bad-dimension-1.0": file('{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', 1),
    "bad-dimension-text": file('{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}', 1),
    "bad-shape-number": file('{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}', 1),
    "ok-dimension-2-63-minus-1": entries(0, a=tensor("U8", (0, (1 << 63) - 1), 0, 0)),
    "bad-dimension-2-63": entries(0, a=tensor("U8", (0, 1 << 63), 0, 0)),
    "bad-dimension-2-64": entries(0, a=tensor("U8", (0, 1 << 64), 0, 0)),
    "bad-product-2-64": entries(0, a=tensor("U8", (1 << 32, 1 << 32), 0, 0)),
    "bad-product-2-64-minus-2-32": entries(0, a=tensor("U8", (1 << 32, (1 << 32) - 1), 0, 0)),
    "bad-bytes-2-64": entries(0, a=tensor("F32", (1 << 62,), 0, 0)),
    "bad-bytes-2-64-plus-4": entries(4, a=tensor("F32", ((1 << 62) + 1,), 0, 4)),
    # offsets
    "bad-size-minus-1": entries(3, a=tensor("F32", (1,), 0, 3)),
    "bad-size-plus-1": entries(5, a=tensor("F32", (1,), 0, 5)),
    "bad-begin-minus-1": entries(3, a=tensor("F32", (1,), -1, 3)),
    "bad-begin-after-end": entries(4, a=tensor("F32", (1,), 4, 0)),
    "bad-offsets-one": file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}'),
    "bad-offsets-three": file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}'),
    "bad-offsets-real": file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1.0]}}', 1),
    "bad-offsets-2-63": entries(0, a=tensor("U8", (0,), 1 << 63, 1 << 63)),
    "bad-offsets-2-63-minus-1": entries(0, a=tensor("U8", (0,), (1 << 63) - 1, (1 << 63) - 1)),
    "bad-file-1-short": entries(3, a=tensor("F32")),
    "bad-file-1-long": entries(5, a=tensor("F32")),
    "bad-no-tensor-1-byte": file("{}", 1),
    # cover
    "ok-two": entries(8, a=tensor("F32"), b=tensor("F32", begin=4)),
    "ok-two-backwards": entries(8, a=tensor("F32", begin=4), b=tensor("F32")),
    "ok-odd-alignment": entries(5, a=tensor(), b=tensor("F32", begin=1)),
    "bad-hole-1": entries(9, a=tensor("F32"), b=tensor("F32", begin=5)),
    "bad-hole-in-front": entries(5, a=tensor("F32", begin=1)),
    "bad-overlap-1": entries(7, a=tensor("F32"), b=tensor("F32", begin=3)),
    "bad-overlap-same": entries(4, a=tensor("F32"), b=tensor("F32")),
    "ok-empty-between": entries(8, a=tensor("F32"), e=tensor("F32", (0,), 4, 4), b=tensor("F32", begin=4)),
    "ok-empty-at-ends": entries(4, e=tensor("U8", (0,), 0, 0), a=tensor("F32"), f=tensor("U8", (3, 0), 4, 4)),
    "bad-empty-inside": entries(4, a=tensor("F32"), e=tensor("U8", (0,), 2, 2)),
    "bad-empty-behind-end": entries(4, a=tensor("F32"), e=tensor("U8", (0,), 5, 5)),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for name, data in FILES.items():
        (OUT / name).write_bytes(data)
    print(len(FILES), "files,", sum(map(len, FILES.values())), "bytes")


if __name__ == "__main__":
    main()
