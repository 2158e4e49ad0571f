#!/usr/bin/env python3
"""What the CUDA kernels need and move: kernels/cuda/REPORT.md.

    make cuda-report     writes it: registers of every kernel by nvcc, traffic by the emulated device
    cuda_report.py --check ...    what make check does: the traffic again, and sm_80 and sm_90 as the build left them

Exit status 1: a kernel spills, or (--check) it is worse than the report says. Needs nothing but Python.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

REPORT = pathlib.Path("kernels/cuda/REPORT.md")
SOURCES = pathlib.Path("kernels/cuda")
MOST_BYTES = 2 << 20  # of the accesses of a launch that is counted, and
MOST_BEFORE = 40  # launches of the kernel before it in its test: more would take long
WITHIN = 0.02  # a number may be so much worse: another host compiler joins or splits some accesses

# Kernels whose traffic is limited: moved/floor and sectors/ideal at most.
LIMITS = {"fsq_fwd_k1": (1.05, 1.1), "fsq_bwd_k1": (1.05, 1.1), "fsq_decode_k1": (1.05, 1.1),
          "fsq_project_fwd_k1": (1.05, 1.1), "fsq_project_bwd_k1": (1.05, 1.1), "fsq_project_decode_k1": (1.05, 1.1),
          "residual_fsq_fwd_k1": (1.1, 1.1), "residual_fsq_lookup_k1": (1.1, 1.1),
          "ada_norm_fwd_k1<float>": (1.25, 1.1), "ada_norm_fwd_k1<uint16_t>": (1.25, 1.1), "ada_norm_bwd_k1": (1.25, 1.1), "ada_norm_sums_k1": (1.25, 1.1),
          "group_norm_fwd_k1<float>": (1.25, 1.1), "group_norm_slab_k1<float>": (1.25, 1.1),
          "group_norm_fwd_k1<uint16_t>": (1.25, 1.25), "group_norm_slab_k1<uint16_t>": (1.25, 1.25),
          "group_norm_bwd_k1": (1.25, 1.1), "group_norm_bwd_slab_k1": (1.25, 1.1), "group_norm_params_k1": (1.25, 1.1),
          "group_norm_kept_k1<float>": (1.25, 1.1), "group_norm_kept_k1<uint16_t>": (1.25, 1.25), "group_norm_bwd_kept_k1": (1.25, 1.1),
          "cross_entropy_k1": (1.25, 1.1), "cross_entropy_shared_k1": (1.25, 1.1)}
# Ops whose data does not fit into one block: all launches of an op together, against the least bytes that it could move.
SHARED_MOST = 1.25
SHARED_OPS = [(f"GroupNorm {way}, {side}x{side} positions by 40 channels", "test_group_norm", "large_maps",
               [(kernel, i) for kernel in kernels], numbers * 4 * 40 * side * side)
              for i, side in enumerate((64, 96))
              for way, kernels, numbers in (("forward", ["group_norm_slab_k1<float>"], 2),
                                            ("backward", ["group_norm_bwd_slab_k1", "group_norm_params_k1"], 3))]
SHARED_OPS += [("GroupNorm forward, 64x64 positions by 40 channels on 2 of them", "test_group_norm", "maps_beyond_shared_memory",
                [("group_norm_kept_k1<float>", 0)], 2 * 4 * 40 * 64 * 64),
               ("GroupNorm backward, 48x64 positions by 40 channels on 3 of them", "test_group_norm", "maps_beyond_shared_memory",
                [("group_norm_bwd_kept_k1", 1), ("group_norm_params_k1", 1)], 3 * 4 * 40 * 48 * 64)]
SHARED_OPS += [(f"GroupNorm forward to bfloat16, 64x64 positions by 40 channels{where}", "test_factor", "group_norm_of_large_maps_rounds",
                [(kernel, 0)], (4 + 2) * 40 * 64 * 64)
               for where, kernel in (("", "group_norm_slab_k1<uint16_t>"), (" on 2 of them", "group_norm_kept_k1<uint16_t>"))]
SHARED_OPS.append(("Cross-entropy, 2 rows of 100,000 classes", "test_cross_entropy", "long_rows", [("cross_entropy_shared_k1", 0)], 2 * 4 * 2 * 100000))
# What the tables do not show.
KNOWN = """Larger ops than those counted keep them within these sizes:
  * GroupNorm where the multiprocessors hold half (backward 5/8) of W channels by P positions of one image: in shared memory, W P of at most
    (forward; backward) 3.8; 1.5 million numbers on an RTX 3090 (sm_86), 8.5; 3.4 on an A100 (sm_80), 14.7; 5.9 on an H100 (sm_90), where a slice
    of 256 positions fits into one block: W of up to 90 on sm_86, 154 on sm_80, 218 on sm_90, half of that backward; beyond, with registers
    (W of 40, as in the published autoencoder), 7.3; 2.8, 13.2; 5.2, 20.4; 8.1. W is 8 where groups have 1, 2, 4 or 8 channels.
    256x256 positions are 2.6 million, backward on an RTX 3090 1.21 times what is least (shared memory alone: 1.42), 512x512 are 10.5, forward
    on an A100 1.19 (1.30), on an RTX 3090 1.33 (1.41).
    Backward they are 84 MB to keep, 52 for the limit: more than an A100 has in all, 108 x (164 + 256) KB of shared memory and registers, 45 MB.
    A block keeps 159 + 75 KB there, in all 25 MB: 1.46 (1.53). An H100 has 65 MB, but 84 registers of each of 512 threads would have to hold
    numbers, and the work needs about 80 of 128: 40 MB, 1.35 (1.43). Fewer groups at once do not help: 20 channels are 80 bytes of a row,
    which touch three sectors of 32, 1.2 times what is least in all that is read and written, and save less than that.
    Beyond, x is read again in part: 1.5 times what is least, 1.67 backward, at most.
  * Cross-entropy where that shared memory holds half a row: up to 4 million classes on an RTX 3090, 9 on an A100, 15 on an H100; beyond, up to
    1.5 times."""


class Architecture:
    """Limits of a multiprocessor; those of cuda_occupancy.h and the programming guide."""

    def __init__(self, warps, blocks, shared_kb):
        self.warps, self.blocks, self.shared = warps, blocks, shared_kb << 10
        self.most_shared = self.shared - 1024  # of one block

    def occupancy(self, registers, shared, threads):
        """Percent of the warps of a multiprocessor. Registers go to warps by 256 in each of four parts; a block takes
        1 KB of shared memory for the system."""
        warps = (threads + 31) // 32
        if shared > self.most_shared:
            return 0
        blocks = min(self.blocks, self.warps // warps,
                     4 * (16384 // ((registers * 32 + 255) // 256 * 256)) // warps,
                     self.shared // ((shared + 1024 + 127) // 128 * 128))
        return 100 * blocks * warps // self.warps


ARCHITECTURES = {80: Architecture(64, 32, 164), 86: Architecture(48, 16, 100), 89: Architecture(48, 24, 100),
                 90: Architecture(64, 32, 228), 100: Architecture(64, 32, 228), 120: Architecture(48, 24, 100)}

# Tests of whole models, run on the emulated device: which of their launches a kernel has.
MODEL_CASES = {"tokenizer step": "demo_tokenizer_step", "generator step": "demo_generator_step", "picture": "demo_models"}

TRAFFIC = ["test", "case", "launch", "grid", "threads", "dynamic", "moved", "floor", "sectors", "ideal", "groups", "passes"]


# ---- registers ----

def kernel_names(symbols):
    """Names as they are written at a launch."""
    done = subprocess.run(["c++filt", "-p"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    names = [re.sub(r".*::|^void ", "", n) for n in done.stdout.split("\n")]
    return dict(zip(symbols, [n.replace("unsigned short", "uint16_t") for n in names]))


def parse_ptxas(text, file):
    """{architecture: {kernel: resources}} from what ptxas -v prints."""
    found = {}
    for part in re.split(r"Compiling entry function ", text)[1:]:
        symbol, arch = re.match(r"'(\w+)' for 'sm_(\d+)'", part).groups()
        stack, stores, loads = map(int, re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        shared = re.search(r"(\d+) bytes smem", part)
        found.setdefault(int(arch), {})[symbol] = {
            "file": file, "registers": int(re.search(r"Used (\d+) registers", part).group(1)),
            "shared": int(shared.group(1)) if shared else 0, "stack": stack, "spills": stores + loads}
    names = kernel_names(sorted({s for kernels in found.values() for s in kernels}))
    return {arch: {names[s]: r for s, r in kernels.items()} for arch, kernels in found.items()}


def merge(parts):
    every = {}
    for part in parts:
        for arch, kernels in part.items():
            every.setdefault(arch, {}).update(kernels)
    return every


def texts_of(path, found):
    """Into {path: text} this file and what it includes of this tree."""
    for place in (pathlib.Path(path), pathlib.Path("include") / path):
        if place.exists() and place not in found:
            found[place] = place.read_text(encoding="utf-8")
            for name in re.findall(r'^#include "([^"]+)"', found[place], re.MULTILINE):
                texts_of(name, found)
    return found


def compile_kernels(options, version):
    """Takes minutes; what ptxas said of a source that is still the same is kept in the build folder."""
    codes = [x for a in ARCHITECTURES for x in ("-gencode", f"arch=compute_{a},code=sm_{a}")]
    kept = pathlib.Path(options.build) / "report"
    kept.mkdir(exist_ok=True)

    def one(source):
        flags = [*shlex.split(options.flags), *codes, "-Xptxas", "-v"]
        key = hashlib.sha256(repr([version, flags, sorted(texts_of(source, {}).items())]).encode()).hexdigest()
        log = kept / f"{source.stem}.{key[:16]}"
        if not log.exists():
            print(f"  NVCC {source}", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                command = [options.nvcc, *flags, "-fatbin", str(source), "-o", f"{folder}/{source.stem}.fatbin"]
                done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            log.write_text(done.stderr, encoding="utf-8")
        return parse_ptxas(log.read_text(encoding="utf-8"), source.name)

    sources = [s for s in sorted(SOURCES.glob("*.cu")) if "__global__" in s.read_text(encoding="utf-8")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return merge(pool.map(one, sources))


def nvcc_version(options):
    """'13.0.88', or None."""
    try:
        text = subprocess.run([options.nvcc, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    found = re.search(r"V(\d[\d.]*)", text)
    return found.group(1) if found else None


# ---- traffic ----

def cases():
    """(test, case) of all that run on the emulated device, but those that give it too little shared memory."""
    return [(source.stem, case) for source in sorted(pathlib.Path("tests/op").glob("test_*.c"))
            for case in re.findall(r"\bT_ADD\(u, (\w+)\)", source.read_text(encoding="utf-8"))
            if case != "little_shared_memory"]


def run_case(options, test, case, wanted, folder="op"):
    """Lines that the emulated device leaves: of all launches, or of those wanted, and then the test is ended."""
    with tempfile.TemporaryDirectory() as place:
        lines = pathlib.Path(place) / "lines"
        environment = {**os.environ, "TS_TEST_BACKEND": "emu", "TS_ROOT": os.getcwd(), "CK_FORK": "no",
                       "OMP_NUM_THREADS": "1", "CK_RUN_CASE": case, "TS_EMU_TRAFFIC": str(lines)}
        environment.pop("TS_EMU_SEED", None)
        if wanted:
            environment["TS_EMU_TRAFFIC_OF"] = f" {' '.join(f'{k}#{n}' for k, n in wanted)} "
        p = subprocess.Popen([f"{options.build}/emu/tests/{folder}/{test}"], env=environment, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)

        def left():
            text = lines.read_text() if lines.exists() else ""
            return [line.split("\t") for line in text.split("\n")[:-1]]

        while p.poll() is None and not (wanted and len(left()) >= len(wanted)):
            time.sleep(0.02)
        if p.poll() is None:
            p.send_signal(signal.SIGKILL)
            p.wait()
        return left()


def measure_shared(options):
    """{op: (bytes moved by all its launches, the least)} of SHARED_OPS."""
    lines = {}
    for _, test, case, launches, _ in SHARED_OPS:
        lines.setdefault((test, case), []).extend(launches)
    moved = {(test, line[0], int(line[1])): int(line[6]) for (test, case), wanted in lines.items()
             for line in run_case(options, test, case, wanted)}
    return {op: (sum(moved[test, k, i] for k, i in launches), least) for op, test, _, launches, least in SHARED_OPS}


def survey(options):
    """The launch of each kernel whose accesses have the most bytes: {kernel: (test, case, number)}."""
    best = {}
    for test, case in cases():
        for kernel, number, _, _, _, size in run_case(options, test, case, None):
            if int(number) <= MOST_BEFORE and best.get(kernel, (0,))[0] < int(size) <= MOST_BYTES:
                best[kernel] = (int(size), test, case, int(number))
        print(f"  EMU {test} {case}", flush=True)
    return {kernel: b[1:] for kernel, b in best.items()}


def count_launches(options):
    """{column: {kernel: launches}} of the model cases."""
    return {column: collections.Counter(line[0] for line in run_case(options, "test_twins", case, None, "model"))
            for column, case in MODEL_CASES.items()}


def threads_of(block):
    x, y, z = map(int, block.split(","))
    return x * y * z


def measure(options, launches):
    """{kernel: traffic} of launches {kernel: (test, case, number)}; kernels that did not run are not in it."""
    by_case, found = {}, {}
    for kernel, (test, case, number) in launches.items():
        by_case.setdefault((test, case), []).append((kernel, number))

    def one(item):
        (test, case), wanted = item
        return [(test, case, line) for line in run_case(options, test, case, wanted)]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for lines in pool.map(one, sorted(by_case.items())):
            for test, case, (kernel, number, grid, block, dynamic, _, *counts) in lines:
                found[kernel] = dict(zip(TRAFFIC, [test, case, int(number), re.sub(r"(,1)+$", "", grid),
                                                   threads_of(block), int(dynamic), *map(int, counts)]))
    return found


def ratios(t):
    """moved/floor and sectors/ideal"""
    return t["moved"] / t["floor"] if t["floor"] else 1, t["sectors"] / t["ideal"] if t["ideal"] else 1


# ---- the report ----

def two_digits(a, b):
    return f"{a / b:.2f}" if b else "-"


def table(head, left, rows):
    """Lines of a table whose first `left` columns are text."""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * left + "--:|" * (len(head) - left)] +
                     ["| " + " | ".join(map(str, r)) + " |" for r in rows])


def traffic_table(traffic):
    head = ["kernel", "test", "case", "launch", "grid", "threads", "dynamic", "moved", "floor", "moved/floor", "sectors",
            "ideal", "sectors/ideal", "groups", "passes", "passes/group"]
    return table(head, 3, [[kernel, t["test"][5:], t["case"], *(t[x] for x in TRAFFIC[2:8]), two_digits(t["moved"], t["floor"]),
                            t["sectors"], t["ideal"], two_digits(t["sectors"], t["ideal"]), t["groups"], t["passes"],
                            two_digits(t["passes"], t["groups"])] for kernel, t in sorted(traffic.items())])


def launch_table(launches):
    kernels = sorted({k for of in launches.values() for k in of})
    return table(["kernel", *launches], 1, [[k, *(of[k] for of in launches.values())] for k in kernels] +
                 [["all of these", *(sum(of.values()) for of in launches.values())]])


def occupancy(arch, r, t):
    return ARCHITECTURES[arch].occupancy(r["registers"], r["shared"] + t["dynamic"], t["threads"])


def resource_table(resources, traffic):
    archs = sorted(resources)
    rows = []
    for kernel in sorted(resources[archs[0]]):
        of = {a: resources[a][kernel] for a in archs if kernel in resources[a]}
        cells = [f"{r['registers']}, {occupancy(a, r, traffic[kernel])} %" if kernel in traffic else f"{r['registers']}"
                 for a, r in of.items()]
        most = [max(r[x] for r in of.values()) for x in ("shared", "stack", "spills")]
        rows.append([kernel, of[archs[0]]["file"], *most, *cells])
    return table(["kernel", "file", "shared", "stack", "spills"] + [f"sm_{a}" for a in archs], 2, rows)


def limit_table(traffic):
    rows = []
    for kernel, limits in LIMITS.items():
        if kernel not in traffic:
            continue
        got = ratios(traffic[kernel])
        bad = any(g > most for g, most in zip(got, limits))
        rows.append([kernel, f"{got[0]:.2f}", limits[0], f"{got[1]:.2f}", limits[1], "**over**" if bad else "yes"])
    return table(["kernel", "moved/floor", "at most", "sectors/ideal", "at most", "kept"], 1, rows)


def shared_table(ops):
    return table(["op", "moved", "least", "moved/least", "at most", "kept"], 1,
                 [[op, moved, least, two_digits(moved, least), SHARED_MOST, "**over**" if moved > SHARED_MOST * least else "yes"]
                  for op, (moved, least) in ops.items()])


def shared_offences(ops):
    return [f"{op}: moved/least {moved / least:.2f}, at most {SHARED_MOST}" for op, (moved, least) in ops.items()
            if moved > SHARED_MOST * least]


def spills(resources):
    return [f"sm_{arch}: {kernel} spills {r['spills']} bytes" for arch, kernels in sorted(resources.items())
            for kernel, r in sorted(kernels.items()) if r["spills"]]


def offences(resources, traffic):
    """What is over a limit, a line each."""
    bad = spills(resources)
    for kernel, r in sorted(((k, r) for kernels in resources.values() for k, r in kernels.items()), key=lambda item: item[0]):
        line = f"{kernel} has arrays in local memory"
        if r["stack"] and line not in bad:
            bad.append(line)
    for kernel in sorted(LIMITS.keys() & traffic.keys()):
        for name, got, most in zip(("moved/floor", "sectors/ideal"), ratios(traffic[kernel]), LIMITS[kernel]):
            if got > most:
                bad.append(f"{kernel}: {name} {got:.2f}, at most {most}")
    return bad


def compiler(options):
    return subprocess.run([options.cxx, "--version"], capture_output=True, text=True).stdout.split("\n")[0]


def write_report(options, version, resources, traffic, launches, ops):
    bad = offences(resources, traffic) + shared_offences(ops)
    kernels = {k for r in resources.values() for k in r}
    stacks = sorted({k for r in resources.values() for k in r if r[k]["stack"]})
    listed = "".join(f"\n  * {b}" for b in bad)
    text = f"""# What the CUDA kernels need and move

`make cuda-report` writes this file: nvcc {version} says what each kernel takes on each architecture, and the emulated device
(tests/emu, compiled by {compiler(options)}) counts what it moves. `make check` counts the traffic again, and compares
registers of sm_80 and sm_90 where nvcc has built them; it fails where a kernel has got worse. No number here was measured on a GPU.

* {len(kernels)} kernels, {len([k for k in kernels if k in traffic])} of them counted below.
* Races: none. The emulated device ends a test at the first race on shared memory, and every op test runs there.
* Kernels that spill: {sum(any(k in r and r[k]['spills'] for r in resources.values()) for k in kernels)}. With arrays in local memory: \
{', '.join(stacks) or 'none'}.
* Over a limit: {len(bad) or 'none'}{listed}
* The limits below are of single launches. {KNOWN}

{limit_table(traffic)}

## Ops shared by blocks

Ops whose data does not fit into the shared memory of a block: many blocks keep it together, in one cooperative launch. Bytes of all launches of
the op, counted on an emulated device of 18 multiprocessors (or of so many as are said; cross-entropy: 8), against the least: every input read and every result written once.

{shared_table(ops)}

## Traffic

Of each kernel the launch in the op tests (tests/op/test_TEST.c, case, launches of the kernel before it) whose accesses have
the most bytes, up to {MOST_BYTES >> 20} MiB, among the first {MOST_BEFORE} of its case.

* *moved*: bytes between the multiprocessors and device memory, in sectors of 32 bytes, through a cache of 48 KB, cold at the start
  (about what a block can hope for when the device is full of blocks); blocks of a cooperative launch begin with a cold one each, and again
  behind each barrier of the grid. *floor*: bytes read before they were written, and
  bytes written, each once.
* *sectors* that the accesses of all warps touch; *ideal*: as many as their bytes would fill.
* Shared memory serves a *group* of lanes at a time (a warp, half of one for 8 bytes, a quarter for 16) in so many *passes* as words of
  one bank are wanted: 1.00 is without conflicts.

What the host compiler keeps in registers is not counted.

{traffic_table(traffic)}

## Launches

How often each kernel is launched by the demo models (models/demo; {", ".join(MODEL_CASES.values())} of tests/model/test_twins.c), in float32:
one training step of the tokenizer and of the generator, forward, backward and optimizer, whatever the batch; and one picture sampled with
guidance and decoded, where a scale's launches are one graph. cuBLAS and cuDNN have launches of their own beside these. Kernels that are not
listed have none.

{launch_table(launches)}

## Registers and occupancy

Static shared memory, stack and spills (stores and loads) in bytes, the most of all architectures; for each architecture
registers of a thread, and the share of a multiprocessor's warps that run at once at the size of the launch above (0 %: such a
launch does not fit there; the state goes to scratch then, or the op is refused).

{resource_table(resources, traffic)}
"""
    REPORT.write_text(text, encoding="utf-8")
    return bad


def read_report():
    """nvcc's version, {section: {kernel: {column: cell}}}."""
    text = REPORT.read_text(encoding="utf-8")
    sections = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in section.split("\n") if line.startswith("| ")]
        sections[section.split("\n")[0]] = {r[0]: dict(zip(rows[0], r)) for r in rows[1:]}
    return (re.search(r"nvcc (\S+)", text).group(1), sections["Traffic"], sections["Launches"], sections["Registers and occupancy"],
            sections["Ops shared by blocks"])


# ---- make check ----

def built_resources(options, version):
    """Those of sm_80 and sm_90 as the build left them; nothing if there is none, or by another compiler."""
    logs = sorted(pathlib.Path(options.build).glob("obj/kernels/cuda/*.ptxas"))
    here = nvcc_version(options)
    if not logs or here != version:
        print(f"registers: not compared: {'no nvcc' if not here else f'nvcc {here}, not {version}' if logs else 'no build by nvcc'}")
        return {}
    every = merge(parse_ptxas(log.read_text(), log.stem + ".cu") for log in logs)
    return {a: every[a] for a in (80, 90) if a in every}


def check_resources(resources, rows, traffic):
    """Complaints."""
    bad, compared = [], 0
    for arch, kernels in resources.items():
        for kernel, r in sorted(kernels.items()):
            if kernel not in rows or kernel not in traffic:
                continue
            compared += 1
            if r["stack"] > int(rows[kernel]["stack"]):
                bad.append(f"sm_{arch}: {kernel}: stack of {r['stack']} bytes; the report has {rows[kernel]['stack']}")
            was = int(re.search(r", (\d+) %", rows[kernel][f"sm_{arch}"]).group(1))
            got = occupancy(arch, r, traffic[kernel])
            if got < was:
                bad.append(f"sm_{arch}: {kernel}: occupancy {got} %, {r['registers']} registers; the report has "
                           f"{rows[kernel][f'sm_{arch}']}")
    print(f"registers: {compared} rows compared")
    return bad


def check_traffic(rows, traffic):
    """Complaints. A launch that is another one now cannot be compared; too many of them are a complaint, too."""
    bad, others = [], []
    for kernel, row in rows.items():
        t = traffic.get(kernel)
        if not t or any(str(t[x]) != row[x] for x in ("grid", "threads", "dynamic")) or t["floor"] != int(row["floor"]):
            others.append(kernel)
            continue
        for name in ("moved", "sectors", "passes"):
            if t[name] > (1 + WITHIN) * int(row[name]):
                bad.append(f"traffic: {kernel}: {name} {t[name]}; the report has {row[name]}")
    print(f"traffic: {len(rows) - len(others)} rows compared" + (f", another launch now: {', '.join(others)}" if others else ""))
    if 4 * len(others) > len(rows):
        bad.append("traffic: too few rows can be compared")
    return bad


def check_shared(rows, ops):
    """Complaints."""
    return shared_offences(ops) + [f"traffic: {op}: moved {moved}; the report has {rows[op]['moved']}" for op, (moved, _) in ops.items()
                                   if moved > (1 + WITHIN) * int(rows[op]["moved"])]


def check_launches(rows, launches):
    """Complaints."""
    return [f"launches: {kernel}: {n} in a {column}; the report has {rows.get(kernel, {}).get(column, 0)}"
            for column, of in launches.items() for kernel, n in sorted(of.items())
            if n > int(rows.get(kernel, {}).get(column, 0))]


def check(options):
    version, traffic_rows, launch_rows, resource_rows, shared_rows = read_report()
    traffic = measure(options, {k: ("test_" + r["test"], r["case"], int(r["launch"])) for k, r in traffic_rows.items()})
    resources = built_resources(options, version)
    bad = (spills(resources) + check_traffic(traffic_rows, traffic) + check_launches(launch_rows, count_launches(options)) +
           check_shared(shared_rows, measure_shared(options)) + check_resources(resources, resource_rows, traffic))
    if bad:
        print("\n".join(bad[:40] + ["make cuda-report writes the report anew"]))
    return 1 if bad else 0


def main():
    p = argparse.ArgumentParser(description="What the CUDA kernels need and move.")
    p.add_argument("--build", required=True, help="build folder with the emulated device's tests")
    p.add_argument("--nvcc", default="nvcc")
    p.add_argument("--flags", default="", help="of nvcc, without architectures")
    p.add_argument("--cxx", default="g++", help="compiler of the emulated device")
    p.add_argument("--check", action="store_true", help="compare with the report")
    options = p.parse_args()
    if options.check:
        return check(options)
    version = nvcc_version(options)
    if not version:
        print(f"cuda-report: there is no {options.nvcc} here, {REPORT} stays as it is")
        return 0
    resources = compile_kernels(options, version)
    bad = write_report(options, version, resources, measure(options, survey(options)), count_launches(options),
                       measure_shared(options))
    print("\n".join(bad or [f"{REPORT} is written; no kernel spills or is over its limit"]))
    return 1 if spills(resources) else 0


if __name__ == "__main__":
    sys.exit(main())
