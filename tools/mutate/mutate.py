#!/usr/bin/env python3
"""Plant bugs in the CUDA kernels, one at a time, and see whether the op tests notice on the emulated device.

    make mutate [ONLY=EXPRESSION] [TABLE=FILE]

For every bug of bugs.txt the sources are copied below BUILD/mutate, the one text is replaced, the objects that see it
are compiled again with the flags of the emulated device, the op test is linked with them and run. Exit status 1: a bug
was missed, or its text is not in the file exactly once, or it does not compile. Needs nothing but Python.
"""
import argparse
import concurrent.futures
import dataclasses
import datetime
import os
import pathlib
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

SECONDS = 60  # of processor time: a test that takes longer hangs, and that is seen
LIST = pathlib.Path(__file__).with_name("bugs.txt")

# What the emulated device, Check and the test harness say, the telling ones first.
SIGNS = [
    (r"emu: .*race on shared memory", "race"),
    (r"emu: .*(barrier|barrier of the grid|warp operation) that (thread|block)", "barrier"),
    (r"emu: .*(mask \w+ leaves out|which does not take part)", "warp mask"),
    (r"emu: .*(read before it was written|never written)", "uninitialised"),
    (r"emu: .*(outside of its allocation|not allocated|freed|beyond shared memory|runs over the end)", "out of bounds"),
    (r"emu: .*misaligned", "misaligned"),
    (r"emu: .*launch of", "launch limits"),
    (r"emu: .*default stream", "stream"),
    (r"emu: ", "emulated device"),
    (r"guard bytes around a buffer", "guard"),
    (r"not ok .*Received signal 24", "hangs"),
    (r"not ok .*Received signal", "crash"),
    (r"not ok ", "failed check"),
]


@dataclasses.dataclass
class Bug:
    line: int
    what: str
    file: str = ""
    test: str = ""
    old: list = dataclasses.field(default_factory=list)
    new: list = dataclasses.field(default_factory=list)


def read_bugs(path):
    bugs = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word, _, rest = line.partition(" ")
        if line.startswith("-") or line.startswith("+"):
            (bugs[-1].old if line[0] == "-" else bugs[-1].new).append(line[1:])
        elif word == "bug":
            bugs.append(Bug(i, rest.strip()))
        elif word in ("file", "test") and bugs:
            setattr(bugs[-1], word, rest.strip())
        elif line.strip() and not line.startswith("#"):
            sys.exit(f"{path}:{i}: expected bug, file, test, -, + or #")
    for b in bugs:
        if not (b.file and b.test and b.old):
            sys.exit(f"{path}:{b.line}: a bug needs file, test and the text to replace")
    return bugs


class Broken(Exception):
    """The list is at fault, not the test."""


class Folder:
    """A copy of what kernels are compiled from, for one bug at a time."""

    def __init__(self, options, number):
        self.options = options
        self.path = pathlib.Path(options.build) / "mutate" / str(number)
        shutil.rmtree(self.path, ignore_errors=True)
        (self.path / "kernels").mkdir(parents=True)
        (self.path / "obj").mkdir()
        for name in ("include", "tests"):
            (self.path / name).symlink_to(pathlib.Path(name).resolve())

    def plant(self, bug):
        """Returns the .cu files that see the bug."""
        shutil.rmtree(self.path / "kernels/cuda", ignore_errors=True)
        shutil.copytree("kernels/cuda", self.path / "kernels/cuda")
        target = self.path / "kernels/cuda" / bug.file
        text, old = target.read_text(encoding="utf-8"), "\n".join(bug.old)
        if text.count(old) != 1:
            raise Broken(f"its text is {text.count(old)} times in {bug.file}, expected once")
        target.write_text(text.replace(old, "\n".join(bug.new)), encoding="utf-8")
        return [bug.file] if bug.file.endswith(".cu") else self.users(f"kernels/cuda/{bug.file}")

    def users(self, header):
        objects = pathlib.Path(self.options.build) / "emu/obj/kernels/cuda"
        return [d.stem + ".cu" for d in sorted(objects.glob("*.d")) if header in d.read_text(encoding="utf-8").split()]

    def build(self, bug):
        """Returns the test program."""
        objects = shlex.split(self.options.objects)
        for source in self.plant(bug):
            stem = pathlib.Path(source).stem
            command = shlex.split(self.options.compile) + [f"kernels/cuda/{source}", "-o", f"obj/{stem}.o"]
            done = subprocess.run(command, cwd=self.path, capture_output=True, text=True)
            if done.returncode:
                first = re.search(r"error: .*", done.stderr)
                raise Broken(f"does not compile: {first.group() if first else done.stderr[:200]}")
            theirs = f"{self.options.build}/emu/obj/kernels/cuda/{stem}.o"
            objects[objects.index(theirs)] = str(self.path / "obj" / f"{stem}.o")
        program = self.path / f"test_{bug.test}"
        test = f"{self.options.build}/obj/tests/op/test_{bug.test}.o"
        command = shlex.split(self.options.link) + [test, *objects, "-o", str(program)] + shlex.split(self.options.libs)
        subprocess.run(command, check=True)
        return program


def limits():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))


def run(program):
    """Returns exit status and output, both Check's own and what the test printed. Ends at the first test that fails."""
    tap = pathlib.Path(f"{program}.tap")
    environment = {**os.environ, "TS_TEST_BACKEND": "emu", "TS_ROOT": os.getcwd(), "OMP_NUM_THREADS": "1",
                   "CK_TAP_LOG_FILE_NAME": str(tap)}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        # In a group of its own: Check ends its whole group when it is told to end.
        p = subprocess.Popen([program], stdout=output, stderr=subprocess.STDOUT, env=environment, preexec_fn=limits,
                             start_new_session=True)
        while p.poll() is None and not (tap.exists() and "not ok " in tap.read_text(errors="replace")):
            time.sleep(0.1)
        if p.poll() is None:
            p.send_signal(signal.SIGTERM)
            p.wait()
            status = 1
        else:
            status = p.returncode
        output.seek(0)
        text = output.read() + (tap.read_text(errors="replace") if tap.exists() else "")
    tap.unlink(missing_ok=True)
    return status, text


def verdict(status, output):
    """How the bug was caught, and in which test; None if it was not."""
    if status == 0:
        return None
    failed = re.search(r"^not ok \d+ - [^:]*:(\w+):", output, re.MULTILINE)
    where = f" in {failed.group(1)}" if failed else ""
    for pattern, name in SIGNS:
        if re.search(pattern, output):
            return name + where
    return f"exit {status}"


def attempt(bug, options, folders, lock):
    with lock:
        folder = folders.pop()
    try:
        found = verdict(*run(folder.build(bug))) or "MISSED"
    except Broken as e:
        found = f"BROKEN: {e}"
    with lock:
        folders.append(folder)
    return found


def check_baseline(options, bugs):
    """A test that fails as it is would catch everything."""
    for test in sorted({b.test for b in bugs}):
        status, output = run(pathlib.Path(options.build) / f"emu/tests/op/test_{test}")
        if status != 0:
            sys.exit(f"test_{test} fails without a bug:\n{output}")


def row(i, bug, found):
    return f"| {i} | {bug.file} | {bug.what} | {found} |"


def write_table(path, rows, results):
    missed = sum(r == "MISSED" for r in results)
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"""# Bugs planted in the CUDA kernels

`make mutate TABLE={path}` wrote this on {datetime.date.today()}: {len(rows)} bugs of bugs.txt, planted one at a
time, {len(rows) - missed} noticed by the op test of that op on the emulated device, {missed} missed.

| | file | bug | caught by |
|---|---|---|---|
""")
        f.write("\n".join(rows) + "\n")


def main():
    p = argparse.ArgumentParser(description="Plant bugs in the CUDA kernels and see whether the op tests notice.")
    p.add_argument("--build", required=True, help="build folder with the emulated device's tests")
    p.add_argument("--compile", required=True, help="command that compiles a .cu for the emulated device")
    p.add_argument("--link", required=True, help="command that links a test")
    p.add_argument("--objects", required=True, help="objects of a test beside its own")
    p.add_argument("--libs", required=True, help="libraries of a test")
    p.add_argument("--only", default="", help="bugs whose number, file, test or text matches this expression")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="bugs at a time")
    p.add_argument("--table", default="", help="also write the table to this file")
    options = p.parse_args()

    bugs = list(enumerate(read_bugs(LIST), 1))
    bugs = [(i, b) for i, b in bugs if re.search(options.only, f"#{i}# {b.file} {b.test} {b.what}")]
    if not bugs:
        sys.exit(f"no bug matches {options.only}")
    check_baseline(options, [b for _, b in bugs])
    folders, lock = [Folder(options, i) for i in range(options.jobs)], threading.Lock()
    rows, results = [], []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = [(i, b, pool.submit(attempt, b, options, folders, lock)) for i, b in bugs]
        for i, b, job in jobs:
            results.append(job.result())
            rows.append(row(i, b, results[-1]))
            print(rows[-1], flush=True)
    shutil.rmtree(pathlib.Path(options.build) / "mutate")
    broken = sum(r.startswith("BROKEN") for r in results)
    missed = results.count("MISSED")
    print(f"{len(results) - missed - broken} of {len(results)} caught, {missed} missed, {broken} broken")
    if options.table and not broken:
        write_table(options.table, rows, results)
    return 1 if missed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
