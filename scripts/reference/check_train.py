"""Checks train.py against the fixtures: its fused attention, micro-batches and f32 follow the recorded ten
steps.

python scripts/reference/check_train.py
"""

import json
import pathlib
import tempfile

import torch
from safetensors.numpy import load_file, save_file

from fixtures import GOLDEN, STEPS, relative
from train import held_out, read_state, train

# Their losses need no noise, and their scopes fit into micro-batches of two sequences.
CASES = ["v1", "v1-scope2", "v1-normhead-tied", "v2", "v2-mtp", "qwen3_moe", "glm4_moe"]


def check(case, micro_sequences, folder):
    spec = json.loads((GOLDEN / case / "spec.json").read_text())
    expected = json.loads((GOLDEN / case / "expected.json").read_text())
    stacked = load_file(GOLDEN / case / "batches.safetensors")
    for step in range(STEPS):
        save_file(
            {name: array[step] for name, array in stacked.items()}, folder / f"batch-{step:05}.safetensors"
        )
    settings = expected["hyperparameters"] | {
        "sequence": expected["sequence"],
        "micro_sequences": micro_sequences,
    }
    state = read_state(GOLDEN / case / "initial.safetensors", spec)
    model, losses = train(spec, state, folder, settings)
    apart = max(abs(a - b["main"]) / b["main"] for a, b in zip(losses, expected["steps"]))
    final = load_file(GOLDEN / case / "final.safetensors")
    strayed = max(
        relative((model.weights | model.buffers)[name].detach(), array) for name, array in final.items()
    )
    assert apart < 1e-5 and strayed < 1e-5, f"{case}: losses differ by {apart:.1e}, weights by {strayed:.1e}"
    loss, count = held_out(model, [folder / "batch-00000.safetensors"], expected["sequence"], micro_sequences)
    assert loss < expected["steps"][0]["main"] and count > 0, f"{case}: ten steps taught nothing"
    print(
        f"{case:20} micro_sequences {micro_sequences}: losses {apart:.0e}, final weights {strayed:.0e} apart"
    )


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            # Whole, and in parts that hold whole scopes of the balance loss.
            for micro_sequences in (None, 2 if case == "v1-scope2" else 1):
                check(case, micro_sequences, pathlib.Path(folder))


if __name__ == "__main__":
    main()
