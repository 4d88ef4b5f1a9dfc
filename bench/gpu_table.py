"""The table of bench/gpu.sh, from the folder of its logs: python bench/gpu_table.py FOLDER"""

import json
import pathlib
import statistics
import sys

FOLDER = pathlib.Path(sys.argv[1])
STEPS = [line.split("\t") for line in (FOLDER / "steps.tsv").read_text().splitlines()]


def reports(name):
    """The objects that a step printed; none where it failed."""
    path = FOLDER / f"{name}.out"
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    except (OSError, json.JSONDecodeError):
        return []


def whole(name):
    """The one object that a step printed on several lines or one; None where it failed."""
    try:
        return json.loads((FOLDER / f"{name}.out").read_text())
    except (OSError, json.JSONDecodeError):
        return None


def names(prefix):
    return [name for _, name, _, _ in STEPS if name.startswith(prefix)]


def speed(report, routing):
    found = [line["tokens_per_s"]["median"] for line in report["routings"] if line["routing"] == routing]
    return found[0] if found else None


def shown(value, form="{:,.0f}"):
    return "-" if value is None else form.format(value)


def machine():
    for name in ("card", "python"):
        path = FOLDER / f"{name}.out"
        if path.exists() and path.read_text().strip():
            print(f"{name}: {path.read_text().strip()}")
    path = FOLDER / "devices.out"
    if path.exists():
        print("\n```\n" + path.read_text().split("\nnot found:")[0].strip() + "\n```")


def ours():
    """Lingot's reports by model, precision and micro-batches, in the order in which they were made."""
    found = {}
    for name in names("train-"):
        if (report := whole(name)) is not None:
            found.setdefault((report["model"], report["precision"], report["micros"]), []).append(report)
    return found


def theirs():
    """PyTorch's reports by model, precision, micro-batches and form."""
    found = {}
    for name in names("peer-"):
        for report in reports(name):
            form = "compiled" if "+compile" in report["variant"] else "eager"
            found[report["model"], report["precision"], report["micros"], form] = report
    return found


def training():
    rows, peers = ours(), theirs()
    if not rows and not peers:
        return
    print("\n| model | routing | Lingot, tok/s (medians) | MFU | of products | PyTorch eager | compiled | Lingot / best |")
    print("|---|---|---|---|---|---|---|---|")
    for key in dict.fromkeys([*rows, *(key[:3] for key in peers)]):
        for routing in ("real", "balanced"):
            speeds = [speed(report, routing) for report in rows.get(key, [])]
            eager, compiled = [peers.get((*key, form)) for form in ("eager", "compiled")]
            eager, compiled = [report and speed(report, routing) for report in (eager, compiled)]
            mine = statistics.median(speeds) if speeds else None
            best = max([x for x in (eager, compiled) if x], default=None)
            lines = [line for report in rows.get(key, []) for line in report["routings"] if line["routing"] == routing]
            shares = [line["peak_share"] for line in lines if line["peak_share"] is not None]
            spread = f"{shown(mine)} ({shown(min(speeds))} to {shown(max(speeds))})" if speeds else "-"
            ratio = mine / best if mine and best else None
            print(f"| {key[0]} {key[1]} x{key[2]} | {routing} | {spread} "
                  f"| {shown(100 * statistics.median(shares) if shares else None, '{:.1f} %')} "
                  f"| {shown(100 * statistics.median([x['matmul_share'] for x in lines]) if lines else None, '{:.0f} %')} "
                  f"| {shown(eager)} | {shown(compiled)} | {shown(ratio, '{:.2f}')} |")  # fmt: skip
    print("\n| model | start to first step, s: device, weights, state, step | PyTorch's | tensors, GB | PyTorch, GB "
          "| losses 1 to 3, Lingot | PyTorch | relative |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for key, found in rows.items():
        report, peer = found[0], peers.get((*key, "eager"))
        start = report["start_up"]
        parts = ", ".join(f"{start[part]:.2f}" for part in ("device_s", "weights_s", "state_s", "step_s"))
        # Where several numbers of micro-batches share a process, only the first began with fresh weights.
        losses, other = report["losses"][:3], peer["losses"][:3] if peer and peer["has_fresh_weights"] else []
        apart = max((abs(a / b - 1) for a, b in zip(losses, other)), default=None)
        theirs_bytes = peer and (peer["peak_device_bytes"] or peer["peak_memory_bytes"])
        print(f"| {key[0]} {key[1]} x{key[2]} | {report['start_to_first_step_s']:.2f}: {parts} "
              f"| {shown(peer and peer['start_to_first_step_s'], '{:.1f}')} | {report['peak_tensor_bytes'] / 1e9:.2f} "
              f"| {shown(theirs_bytes and theirs_bytes / 1e9, '{:.2f}')} | {', '.join(f'{x:.5f}' for x in losses)} "
              f"| {', '.join(f'{x:.5f}' for x in other) or '-'} | {shown(apart, '{:.1e}')} |")  # fmt: skip
    attentions = sorted({report["attention"] for report in peers.values()})
    if attentions:
        print(f"\nPyTorch's kernel of attention: {', '.join(attentions)}")


def op_tables():
    for name in names("ops-"):
        table = whole(name)
        if table is None:
            continue
        ceilings = table["ceilings"]
        print(f"\n{table['model']} in {table['precision']}: ops {1e3 * table['ops_s']:.1f} ms, floor "
              f"{1e3 * table['floor_s']:.1f} ms, whole step {1e3 * table['step_s']['median']:.1f} ms; products "
              f"{ceilings['product_flops_per_s'] / 1e12:.0f} TFLOP/s, copy {ceilings['copy_bytes_per_s'] / 1e9:.0f} GB/s\n")  # fmt: skip
        print("| op | calls | ms | share | floor, ms | times the floor | TFLOP/s | GB/s | host, ms |")
        print("|---|---|---|---|---|---|---|---|---|")
        for row in table["rows"]:
            times = f"{row['seconds'] / row['floor_s']:.1f}" if row["floor_s"] > 0 else "-"
            print(f"| {row['op']} {row['form']} {row['sizes']}{' *' if row['waits'] else ''} | {row['calls']} "
                  f"| {1e3 * row['seconds']:.3f} | {100 * row['share']:.1f} % | {1e3 * row['floor_s']:.3f} | {times} "
                  f"| {row['flops_per_s'] / 1e12:.1f} | {row['bytes_per_s'] / 1e9:.0f} | {1e3 * row['enqueue_s']:.3f} |")  # fmt: skip


def alignment():
    rows = [(name, code, seconds) for section, name, code, seconds in STEPS if section in ("align", "resume")]
    if rows:
        print("\n| what | result | s |\n|---|---|---|")
    for name, code, seconds in rows:
        print(f"| {name} | {'passed' if code == '0' else f'failed with {code}'}{detail(name)} | {seconds} |")


def detail(name):
    report = whole(name) if name.startswith("align") else None
    curves = (report or {}).get("curves") or []
    return "".join(f"; {curve['model']} mean {curve['mean']:.1e}" for curve in curves if "mean" in curve)


def predictions():
    table = whole("predict")
    if table is None:
        return
    print("\n| setup | predicted ms | measured ms | error | predicted MB | measured MB |\n|---|---|---|---|---|---|")
    for row in table["rows"]:
        measured = row["measured_bytes"] or row["tensor_bytes"]
        print(f"| {row['name']} | {1e3 * row['predicted_s']:.2f} | {1e3 * row['measured_s']:.2f} "
              f"({1e3 * row['least_s']:.2f} to {1e3 * row['most_s']:.2f}) "
              f"| {100 * (row['predicted_s'] / row['measured_s'] - 1):+.1f} % | {row['predicted_bytes'] / 1e6:.0f} "
              f"| {measured / 1e6:.0f} |")  # fmt: skip
    print(f"\ntime: median error {100 * table['median_time_error']:.1f} %, worst {100 * table['worst_time_error']:.1f} %")


def failures():
    failed = [(name, code, seconds) for _, name, code, seconds in STEPS if code != "0"]
    totals = {}
    for section, _, _, seconds in STEPS:
        totals[section] = totals.get(section, 0.0) + float(seconds)
    print("\nsections: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in totals.items()))
    for name, code, seconds in failed:
        path = FOLDER / f"{name}.err"
        last = path.read_text(errors="replace").strip().splitlines()[-3:] if path.exists() else []
        print(f"failed: {name} with {code} after {seconds} s: {' / '.join(last)[:400]}")


print("# Lingot on an accelerator\n")
for part in (machine, training, op_tables, alignment, predictions, failures):
    part()
