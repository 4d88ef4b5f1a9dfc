"""Trains one run twice, with Lingot and with the PyTorch reference, and compares the held-out losses.

    python scripts/compare_pytorch.py [RUN.toml] [--set key=value]... [--threads N] [--keep FOLDER]
    python scripts/compare_pytorch.py --quick      # a small model on the project's own text

Both begin with the same weights and see the same batches in the same order; the model, its gradients and
AdamW are each their own. Fails when the held-out losses are more than 0.5 % apart. Without PyTorch it says
so and succeeds.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

TOLERANCE = 0.005
ROOT = pathlib.Path(__file__).resolve().parent.parent

# Sigmoid routing with a selection bias, a dense layer and shared experts, on the documents and sources of the
# project.
QUICK = """
[model]
preset = "toy"
vocabulary = 512
width = 64
layers = 3
dense_width = 128
experts = 8
expert_width = 32
heads = 2
kv_heads = 1
[data]
corpora = [{ path = "docs" }, { path = "crates/model/src" }]
sequence = 64
[batch]
sequences = 8
micro = 4
[optimizer]
rate = 0.003
[schedule]
warmup_steps = 10
[stop]
steps = 100
[evaluation]
every = 0
sequences = 64
[checkpoint]
every = 0
[device]
threads = 1
"""


def call(command, **options):
    """Runs the command in the project's folder; its output, unless it fails."""
    print("+", shlex.join(map(str, command)), file=sys.stderr, flush=True)
    finished = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, **options)
    if finished.returncode != 0:
        raise SystemExit(f"error: {command[0]} ended with code {finished.returncode}")
    return finished.stdout.decode()


def program(package, built, *cargo):
    """The command of a program: the one in the folder LINGOT_BUILD, or a release build of its own."""
    if folder := os.environ.get("LINGOT_BUILD"):
        return [pathlib.Path(folder) / built]
    return ["cargo", "run", "--quiet", "--release", "-p", package, *cargo, "--"]


def export(run, overrides, folder):
    exporter = program("lingot-train", "examples/export_batches", "--example", "export_batches")
    call([*exporter, run, folder, *overrides])
    return json.loads((folder / "hyperparameters.json").read_text())


def train_lingot(run, overrides, folder):
    """The losses of every step, and the last held-out loss, from the run's own log."""
    call([*program("lingot-app", "lingot"), "train", run, *overrides])
    events = [json.loads(line) for line in (folder / "run" / "run.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    held_out = [event for event in events if event["event"] == "evaluation"][-1]
    if any(event["event"] == "anomaly" for event in events) or held_out["step"] != len(steps):
        raise SystemExit(f"error: the run in {folder} skipped or repeated steps\n\nhint: read its run.jsonl")
    return {
        "held_out_loss": held_out["loss"],
        "train_losses": [step["main_loss"] for step in steps],
        "tokens": steps[-1]["tokens"],
        "wall_s": round(steps[-1]["seconds"], 1),
    }


def train_pytorch(folder, threads):
    paths = {"spec": "spec.json", "weights": "initial.safetensors", "hyperparameters": "hyperparameters.json"}
    options = [part for name, path in paths.items() for part in (f"--{name}", folder / path)]
    script = ROOT / "scripts" / "reference" / "train.py"
    return json.loads(call([sys.executable, script, *options, "--batches", folder, "--threads", threads]))


def compare(lingot, pytorch):
    pairs = list(zip(lingot["train_losses"], pytorch["train_losses"], strict=True))
    apart = [abs(ours - theirs) / theirs for ours, theirs in pairs]
    ours, theirs = lingot["held_out_loss"], pytorch["held_out_loss"]
    return {
        "steps": len(pairs),
        "tokens": lingot["tokens"],
        "held_out_tokens": pytorch["held_out_tokens"],
        "lingot_held_out_loss": ours,
        "pytorch_held_out_loss": theirs,
        "relative_difference": abs(ours - theirs) / theirs,
        "tolerance": TOLERANCE,
        "train_loss_mean_difference": sum(apart) / len(apart),
        "train_loss_largest_difference": max(apart),
        "lingot_s": lingot["wall_s"],
        "pytorch_s": pytorch["wall_s"],
    }


def both(run, overrides, threads, folder):
    """Trains with both in an empty folder; the figures."""
    if (folder / "run").exists():
        raise SystemExit(
            f"error: {folder} holds a comparison already\n\nhint: choose another --keep, or delete it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [*overrides, f"folder={json.dumps(str(folder / 'run'))}"]
    overrides = [part for override in overrides for part in ("--set", override)]
    settings = export(run, overrides, folder)
    lingot = train_lingot(run, overrides, folder)
    if len(lingot["train_losses"]) != len(settings["rates"]):
        reason = f"Lingot took {len(lingot['train_losses'])} steps, {len(settings['rates'])} were exported"
        raise SystemExit(f"error: {reason}\n\nhint: compare runs that stop by stop.steps or stop.tokens")
    return compare(lingot, train_pytorch(folder, threads))


def main():
    parser = argparse.ArgumentParser(description="Compares a run of Lingot with PyTorch on the same batches.")
    parser.add_argument("run", nargs="?", type=pathlib.Path, default=ROOT / "runs" / "shakespeare.toml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as of `lingot train`"
    )
    parser.add_argument("--quick", action="store_true", help="a small model on the project's own text")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of PyTorch; Lingot has device.threads"
    )
    parser.add_argument("--keep", type=pathlib.Path, help="write batches and run here, and keep them")
    arguments = parser.parse_args()
    if any(importlib.util.find_spec(module) is None for module in ("torch", "safetensors")):
        print("skipped: comparing with PyTorch needs torch and safetensors (scripts/requirements.txt)")
        raise SystemExit(77)
    with tempfile.TemporaryDirectory() as temporary:
        run = arguments.run.resolve()
        if arguments.quick:
            run = pathlib.Path(temporary) / "quick.toml"
            run.write_text(QUICK)
        folder = (arguments.keep or pathlib.Path(temporary) / "comparison").resolve()
        result = both(run, arguments.set, arguments.threads, folder)
    print(json.dumps(result, indent=2))
    if not result["relative_difference"] <= TOLERANCE:
        raise SystemExit(
            f"error: the held-out losses are {result['relative_difference']:.2%} apart, not {TOLERANCE:.1%}"
        )


if __name__ == "__main__":
    main()
