#!/usr/bin/env python3
"""Draws a plot of docs/fleet.md from the lines that the example `edit_quality` printed. Needs nothing but
Python.

scripts/plot_fleet.py LINES.jsonl OUT.svg tokens|seconds CASE=LABEL [CASE=LABEL ...]
"""

import json
import sys

COLOURS = ["#000000", "#d62728", "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2"]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 50, 40, 12, 24


def main():
    lines, out, axis, *wanted = sys.argv[1:]
    with open(lines) as file:
        runs = {run["case"]: run for run in map(json.loads, file)}
    column, unit, name = {"tokens": (0, 1e6, "million tokens"), "seconds": (2, 1, "virtual time, s")}[axis]
    curves = []
    for pair in wanted:
        case, label = pair.rsplit("=", 1)
        curves.append((label, [(point[column] / unit, point[1]) for point in runs[case]["curve"]]))
    xs = [x for _, curve in curves for x, _ in curve]
    ys = [y for _, curve in curves for _, y in curve]
    low, high, end = min(ys) - 0.02, max(ys) + 0.02, max(xs)

    def place(x, y):
        across = LEFT + x / end * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for share in range(6):
        x, y = end * share / 5, low + (high - low) * share / 5
        (across, _), (_, down) = place(x, low), place(0, y)
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{x:.4g}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{y:.2f}</text>')
        parts.append(f'<path d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
    for index, (label, curve) in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        points = " ".join("%.1f,%.1f" % place(x, y) for x, y in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{WIDTH - 20}" y="{26 + 15 * index}" text-anchor="end" fill="{colour}">{label}</text>'
        )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{name}; upwards: held-out loss</text>'
    )
    style = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style += ' font-family="sans-serif" font-size="12"'
    with open(out, "w") as file:
        file.write(f"<svg {style}>\n" + "\n".join(parts) + "\n</svg>\n")


main()
