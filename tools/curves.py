#!/usr/bin/env python3
"""Draw the curves of one or more runs as a self-contained SVG.

    python3 tools/curves.py RUN/metrics.jsonl[:KEY,KEY...] ... > curves.svg

One panel per file and key. Needs nothing but Python.
"""
import json
import sys

WIDTH, HEIGHT, LEFT, TOP = 420, 220, 56, 34
COLOURS = ["#2b6cb0", "#c05621", "#2f855a", "#97266d", "#4a5568", "#b7791f"]


def read(argument):
    path, _, keys = argument.partition(":")
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f if line.endswith("\n")]
    return path, keys.split(",") if keys else ["loss"], rows


def panel(x0, title, rows, key, colour):
    points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
    if not points:
        sys.exit(f"{title}: no values of {key}")
    steps, values = [p[0] for p in points], sorted(p[1] for p in points)
    low, high = values[0], values[int(0.98 * (len(values) - 1))]  # the first steps must not flatten the rest
    span, last = (high - low) or 1, steps[-1] or 1
    def at(step, value):
        y = TOP + HEIGHT * (1 - (min(max(value, low), high) - low) / span)
        return f"{x0 + LEFT + WIDTH * step / last:.1f},{y:.1f}"
    line = " ".join(at(*p) for p in points)
    out = [f'<text x="{x0 + LEFT}" y="20" font-weight="bold">{title}: {key}</text>',
           f'<rect x="{x0 + LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>',
           f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for f in (0, 0.5, 1):
        y = TOP + HEIGHT * (1 - f)
        out.append(f'<text x="{x0 + LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{low + f * span:.4g}</text>')
        out.append(f'<text x="{x0 + LEFT + WIDTH * f:.0f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{last * f:.0f}</text>')
    return out


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out, x = [], 0
    for argument in sys.argv[1:]:
        path, keys, rows = read(argument)
        title = path.split("/")[-2] if "/" in path else path
        for key in keys:
            out += panel(x, title, rows, key, COLOURS[x // (WIDTH + LEFT + 20) % len(COLOURS)])
            x += WIDTH + LEFT + 20
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{x}" height="{HEIGHT + TOP + 26}" '
          'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>')
    print("\n".join(out))
    print("</svg>")


main()
