"""Writes tests/golden/<case>/ from the reference model, after checking the reference itself.

python scripts/reference/make_fixtures.py            writes the fixtures
python scripts/reference/make_fixtures.py --check    compares with those that are there
python scripts/reference/make_fixtures.py --search   looks for seeds whose routing decisions are all clear
"""

import argparse
import copy

import numpy
import torch

from fixtures import (
    GOLDEN,
    HYPERPARAMETERS,
    SAFE_MARGIN,
    SAFE_STRAY,
    ReferenceSubject,
    batch_of,
    check,
    differences,
    draw_batches,
    draw_tensors,
    files_of,
    keeps,
    record,
    write,
)

V1_ROUTER = {
    "score": "softmax",
    "renormalise": True,
    "scale": 1.0,
    "groups": 1,
    "groups_kept": 1,
    "selection_bias": False,
    "bias_rate": 0.0,
    "balance_loss": 0.05,
    "balance_sequences": 1,
    "z_loss": 0.01,
    "warmup_steps": 0,
}
V2_ROUTER = V1_ROUTER | {
    "score": "sigmoid",
    "scale": 2.5,
    "groups": 3,
    "groups_kept": 2,
    "selection_bias": True,
    "bias_rate": 0.01,
    "balance_loss": 0.0,
    "z_loss": 0.001,
}
V1 = {
    "vocabulary": 64,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_width": 4,
    "dense_layers": 0,
    "dense_width": 0,
    "experts": 6,
    "choices": 2,
    "expert_width": 4,
    "shared_experts": 2,
    "router": V1_ROUTER,
    "qk_norm": False,
    "rotary_width": 4,
    "rope_theta": 10000.0,
    "norm_epsilon": 1e-6,
    "norm_head": False,
    "tied": False,
    "mtp_layers": 0,
    "mtp_weight": 0.0,
    "initial_deviation": 0.006,
}
V2 = V1 | {
    "vocabulary": 67,
    "head_width": 6,
    "rotary_width": 4,
    "dense_layers": 1,
    "dense_width": 10,
    "experts": 9,
    "choices": 3,
    "expert_width": 3,
    "shared_experts": 1,
    "router": V2_ROUTER,
    "qk_norm": True,
}


def v1(changes=None, router=None):
    return V1 | (changes or {}) | {"router": V1_ROUTER | (router or {})}


def v2(changes=None, router=None):
    return V2 | (changes or {}) | {"router": V2_ROUTER | (router or {})}


# Case -> (spec, sequences, tokens of a sequence, seed). The seeds come from --search.
CASES = {
    "v1": (v1({"head_width": 6, "rotary_width": 6}), 2, 24, 1),
    "v1-scope2": (
        v1({"layers": 1, "vocabulary": 71}, {"balance_sequences": 2, "balance_loss": 0.2}),
        4,
        12,
        0,
    ),
    "v1-normhead": (v1({"layers": 1, "norm_head": True}), 2, 24, 0),
    "v1-normhead-tied": (v1({"layers": 1, "norm_head": True, "tied": True}), 2, 24, 0),
    "v1-warmup": (v1({}, {"warmup_steps": 20}), 2, 24, 2),
    "v2": (v2({"layers": 3}), 2, 24, 2),
    "v2-mtp": (
        v2({"mtp_layers": 1, "mtp_weight": 0.3, "rope_theta": 600000.0}, {"balance_loss": 0.02}),
        2,
        24,
        2,
    ),
    "tied": (v1({"layers": 1, "tied": True, "vocabulary": 97}), 2, 24, 4),
    "no-shared-expert": (v1({"layers": 1, "shared_experts": 0, "norm_epsilon": 1e-5}), 2, 24, 5),
    "one-expert-chosen": (v1({"layers": 1, "choices": 1}, {"renormalise": False}), 2, 24, 0),
}


def draw(case, seed):
    spec, sequences, sequence, _ = CASES[case]
    random = numpy.random.default_rng([*case.encode(), seed])
    return (
        copy.deepcopy(spec),
        draw_tensors(spec, random),
        draw_batches(spec, sequences, sequence, random),
        sequence,
    )


def search(case):
    """The first seed whose every decision in ten steps is clear, and which is kind to f32."""
    for seed in range(1000):
        files, margin, strays = build(case, seed, strict=False)
        if margin > SAFE_MARGIN and max(strays.values()) < SAFE_STRAY:
            return seed, margin
    raise SystemExit(f"{case}: no seed below 1000 has clear decisions")


def build(case, seed, strict=True):
    """The files of a case, its smallest margin, and how far f32 arithmetic strays from the files."""
    spec, initial, batches, sequence = draw(case, seed)
    recorded = record(
        ReferenceSubject(spec, initial, HYPERPARAMETERS), spec, batches, sequence, HYPERPARAMETERS
    )
    expected, gradients, final, margin = recorded
    single = ReferenceSubject(spec, initial, HYPERPARAMETERS, torch.float32)
    strays = differences(record(single, spec, batches, sequence, HYPERPARAMETERS), recorded)
    if strict:
        differentiate_numerically(spec, initial, batches, sequence)
        assert margin > SAFE_MARGIN, f"{case}: a decision was made by {margin:.1e}; run --search"
        assert max(strays.values()) < SAFE_STRAY, f"{case}: f32 strays by {strays}; run --search"
    return files_of(spec, initial, batches, expected, gradients, final), margin, strays


def differentiate_numerically(spec, initial, batches, sequence):
    """Central differences of the total loss in f64, at some numbers of every tensor, against autograd."""
    subject = ReferenceSubject(spec, initial, HYPERPARAMETERS)
    batch = batch_of(batches, 0, sequence, keeps(spec)[0])
    subject.differentiate(batch)
    gradients = subject.gradients()
    if spec["norm_head"]:
        matrix = subject.weights["embedding" if spec["tied"] else "head"].detach()
        subject.model.head_norm = torch.linalg.vector_norm(matrix, dim=0, keepdim=True) + 1e-7
    random, step = numpy.random.default_rng(1), 1e-6
    for name, weight in subject.weights.items():
        scale = max(abs(gradients[name]).max(), 1e-3)
        flat = weight.data.view(-1)
        for index in random.choice(flat.numel(), size=2, replace=False):
            original, totals = flat[index].item(), []
            for shift in (step, -step):
                flat[index] = original + shift
                with torch.no_grad():
                    totals.append(subject.model.losses(batch).total.item())
            flat[index] = original
            numerical = (totals[0] - totals[1]) / (2 * step)
            difference = abs(numerical - gradients[name].reshape(-1)[index]) / scale
            assert (
                difference < 1e-5
            ), f"{name}[{index}]: {numerical} differs from autograd by {difference:.1e}"


def main():
    parser = argparse.ArgumentParser(
        description="Makes the fixtures of tests/golden from the reference model."
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files instead of writing"
    )
    parser.add_argument("--search", action="store_true", help="look for seeds and write nothing")
    parser.add_argument("cases", nargs="*", help="only these cases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for case in arguments.cases or CASES:
        if arguments.search:
            seed, margin = search(case)
            print(f"{case:20} seed {seed}  margin {margin:.1e}", flush=True)
            continue
        files, margin, strays = build(case, CASES[case][3])
        strayed = "  ".join(f"{part} {stray:.0e}" for part, stray in strays.items())
        if arguments.check:
            print(f"{case:20} equal to {check(GOLDEN / case, files):.0e}; f32 strays: {strayed}")
        else:
            write(GOLDEN / case, files)
            print(f"{case:20} written; margin {margin:.0e}; f32 strays: {strayed}")


if __name__ == "__main__":
    main()
