#!/usr/bin/env python3
"""Write tests/fuzz/corpus/dataset: small tar files in every dialect, with what a hostile one may hold."""
import io
import pathlib
import tarfile

HERE = pathlib.Path(__file__).parent
OUT = HERE / "corpus" / "dataset"
PICTURE = (HERE.parent / "images" / "grey1.png").read_bytes()


def add(tar, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def write(name, dialect, fill):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=dialect) as tar:
        fill(tar)
    (OUT / name).write_bytes(data.getvalue().rstrip(b"\0") + bytes(600))  # not the usual 10 KB of zeros


def plain(tar):
    add(tar, "a/1.png", PICTURE)
    add(tar, "a/1.cls", b"2")
    add(tar, "a/2.cls", b"0")
    add(tar, "a/2.png", PICTURE)
    add(tar, "a/2.json", b"{}")


def odd(tar):
    add(tar, "n" * 180 + "/1.png", PICTURE)
    add(tar, "../../up.png", PICTURE)
    add(tar, "/abs.png", PICTURE)
    add(tar, "link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    add(tar, "hard.png", type=tarfile.LNKTYPE, linkname="/abs.png")
    add(tar, "device.png", type=tarfile.CHRTYPE)
    add(tar, "pipe.png", type=tarfile.FIFOTYPE)
    add(tar, "folder.png", type=tarfile.DIRTYPE)
    add(tar, "text.png", b"not a picture")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, dialect in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        write(f"{name}.tar", dialect, plain)
        write(f"{name}-odd.tar", dialect, lambda tar: add(tar, "x.png", PICTURE) if dialect == tarfile.USTAR_FORMAT else odd(tar))
    (OUT / "header-only").write_bytes((OUT / "ustar.tar").read_bytes()[:512])


if __name__ == "__main__":
    main()
