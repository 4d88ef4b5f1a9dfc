"""What the fixture scripts share: drawing weights and batches, ten recorded optimizer steps, files and
their check."""

import copy
import json
import pathlib
import textwrap

import numpy
import torch
from safetensors.numpy import load_file, save_file

from model import Batch, Reference, optimizer, router_names, tensor_shapes, update

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
STEPS = 10
# A top-k decision closer than this could fall differently in f32.
SAFE_MARGIN = 1e-4
# Our own f32 run stays this close, so that another order of f32 sums stays within 1e-5.
SAFE_STRAY = 3e-6

HYPERPARAMETERS = {
    "rates": [0.0005 * (step + 1) for step in range(5)] + [0.0025 - 0.0004 * step for step in range(5)],
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "decay": 0.1,
    "clip": 1.0,
    "bias_rate": 0.01,
}


def draw_tensors(spec, random):
    """Initial weights and buffers as f32 arrays. No norm is all ones, no bias zero: such values hide
    mistakes."""
    arrays = {}
    for name, (shape, is_matrix) in tensor_shapes(spec).items():
        normal = random.standard_normal(shape)
        deviation = {"embedding": 0.8, "router": 0.6}.get(name.split(".")[-1], 0.3)
        arrays[name] = deviation * normal if is_matrix else 1.0 + 0.2 * normal
    for name in router_names(spec):
        if spec["router"]["selection_bias"]:
            arrays[f"{name}.selection_bias"] = 0.1 * random.standard_normal(spec["experts"])
        if spec["router"]["warmup_steps"] > 0:
            arrays[f"{name}.logit_statistics"] = numpy.array([0.1, 1.2]) + 0.05 * random.standard_normal(2)
    return {name: array.astype(numpy.float32) for name, array in arrays.items()}


def draw_batches(spec, sequences, sequence, random):
    """Ten batches, stacked [10, T]: two or three documents in each sequence, ended by a target of -1, and
    a token inside a document that nothing is asked of."""
    shape = (STEPS, sequences, sequence)
    tokens = random.integers(0, spec["vocabulary"], shape)
    following = random.integers(0, spec["vocabulary"], shape[:2])
    targets = numpy.concatenate([tokens[:, :, 1:], following[:, :, None]], axis=2)
    starts = numpy.zeros(shape, dtype=numpy.int64)
    for step in range(STEPS):
        for row in range(sequences):
            cuts = sorted(
                random.choice(numpy.arange(3, sequence - 3), size=random.integers(1, 3), replace=False)
            )
            for cut in cuts:
                starts[step, row, cut:] = cut
                targets[step, row, cut - 1] = -1
            targets[step, row, random.integers(0, sequence)] = -1
            starts[step, row] += row * sequence
    positions = numpy.arange(sequences * sequence) - starts.reshape(STEPS, -1)
    arrays = {"tokens": tokens, "targets": targets, "starts": starts, "positions": positions}
    arrays = {name: array.reshape(STEPS, -1).astype(numpy.int32) for name, array in arrays.items()}
    if spec["router"]["warmup_steps"] > 0:
        for name in router_names(spec):
            noise = random.standard_normal((STEPS, sequences * sequence, spec["experts"]))
            arrays[f"noise/{name}"] = noise.astype(numpy.float32)
    return arrays


def batch_of(arrays, step, sequence, keep=1.0, dtype=torch.float64):
    """One of the stacked batches."""
    tokens = [
        torch.from_numpy(arrays[name][step]).long() for name in ("tokens", "targets", "starts", "positions")
    ]
    noise = {
        name.removeprefix("noise/"): torch.from_numpy(array[step]).to(dtype)
        for name, array in arrays.items()
        if name.startswith("noise/")
    }
    return Batch(*tokens, sequence, keep, noise)


def keeps(spec):
    """How much of the true logits each of the ten steps keeps: they begin in the middle of the warmup."""
    warmup = spec["router"]["warmup_steps"]
    return [min((step + 5) / warmup, 1.0) if warmup > 0 else 1.0 for step in range(STEPS)]


class ReferenceSubject:
    """The reference model behind the interface that `record` asks for; the other one wraps transformers'
    classes."""

    def __init__(self, spec, arrays, hyperparameters, dtype=torch.float64):
        shapes = tensor_shapes(spec)
        tensors = {name: torch.from_numpy(array.copy()).to(dtype) for name, array in arrays.items()}
        self.weights = {name: tensors[name].requires_grad_() for name in shapes}
        self.buffers = {name: tensor for name, tensor in tensors.items() if name not in shapes}
        self.model = Reference(spec, self.weights, self.buffers)
        self.adamw = optimizer(self.weights, spec, hyperparameters)
        self.hyperparameters, self.dtype = hyperparameters, dtype

    def differentiate(self, batch):
        losses = self.model.losses(batch)
        losses.total.backward()
        self.loads = {name: routing.load for name, routing in losses.routings.items()}
        self.margin = min((routing.margin for routing in losses.routings.values()), default=float("inf"))
        return {part: getattr(losses, part).item() for part in ("main", "mtp", "balance", "z", "total")}

    def gradients(self):
        return {name: weight.grad.numpy().copy() for name, weight in self.weights.items()}

    def step(self, rate):
        return update(self.adamw, self.weights, self.buffers, self.loads, rate, self.hyperparameters)

    def state(self):
        tensors = self.weights | {
            name: b for name, b in self.buffers.items() if name.endswith(".selection_bias")
        }
        return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def record(subject, spec, batches, sequence, hyperparameters):
    """Ten optimizer steps: (expected.json, gradients of batch 0, weights after the last step, smallest
    margin)."""
    steps, gradients, margin = [], None, float("inf")
    for step, keep in enumerate(keeps(spec)):
        losses = subject.differentiate(batch_of(batches, step, sequence, keep, subject.dtype))
        margin = min(margin, subject.margin)
        gradients = gradients or subject.gradients()
        loads = {name: load.tolist() for name, load in subject.loads.items()}
        norm = subject.step(hyperparameters["rates"][step])
        steps.append(losses | {"gradient_norm": norm, "loads": loads})
    expected = {"sequence": sequence, "keep": keeps(spec), "hyperparameters": hyperparameters, "steps": steps}
    return expected, gradients, subject.state(), margin


def differences(recorded, other):
    """The largest relative differences of two recordings."""
    steps = zip(recorded[0]["steps"], other[0]["steps"])
    return {
        "loss": max(abs(a["total"] - b["total"]) / b["total"] for a, b in steps),
        "gradient": max(relative(recorded[1][name], other[1][name]) for name in other[1]),
        "final": max(relative(recorded[2][name], other[2][name]) for name in other[2]),
    }


def files_of(spec, initial, batches, expected, gradients, final):
    """The fixture as file name -> content."""
    return {
        "spec.json": spec,
        "initial.safetensors": initial,
        "batches.safetensors": batches,
        "expected.json": expected,
        "expected.safetensors": {
            f"grad/{name}": array.astype(numpy.float64) for name, array in gradients.items()
        },
        "final.safetensors": {name: array.astype(numpy.float32) for name, array in final.items()},
    }


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name.endswith(".json"):
            (folder / name).write_text(dumps(content))
        else:
            save_file(content, folder / name)


def check(folder, files, tolerance=1e-6):
    """Checks that the files hold the same up to rounding. Returns the largest difference."""
    worst = 0.0
    for name, content in files.items():
        path = folder / name
        if name.endswith(".json"):
            old = json.loads(path.read_text())
            worst = max(worst, compare_json(f"{path}", old, json.loads(dumps(content)), tolerance))
            continue
        old = load_file(path)
        assert old.keys() == content.keys(), f"{path}: other tensors"
        for key, array in content.items():
            assert old[key].dtype == array.dtype and old[key].shape == array.shape, f"{path}: {key}"
            if array.dtype.kind == "i":
                assert (old[key] == array).all(), f"{path}: {key}"
                continue
            difference = relative(array, old[key])
            assert difference < tolerance, f"{path}: {key} differs by {difference:.1e}"
            worst = max(worst, difference)
    return worst


def compare_json(where, old, new, tolerance=1e-6):
    """The largest relative difference of the numbers; all else must be equal."""
    assert type(old) is type(new), where
    if isinstance(new, dict):
        assert old.keys() == new.keys(), where
        return max(
            (compare_json(f"{where}.{key}", old[key], new[key], tolerance) for key in new), default=0.0
        )
    if isinstance(new, list):
        assert len(old) == len(new), where
        return max((compare_json(where, a, b, tolerance) for a, b in zip(old, new)), default=0.0)
    if isinstance(new, float):
        difference = abs(old - new) / max(abs(new), 1e-9)
        assert difference < tolerance, f"{where}: {old} != {new}"
        return difference
    assert old == new, f"{where}: {old} != {new}"
    return 0.0


def relative(a, b):
    """The difference of two tensors, relative to the larger one's norm; 0 when both are zero."""
    a, b = numpy.asarray(a, numpy.float64), numpy.asarray(b, numpy.float64)
    scale = max(numpy.linalg.norm(a), numpy.linalg.norm(b))
    return float(numpy.linalg.norm(a - b) / scale) if scale > 0 else 0.0


def dumps(content):
    """JSON a person can read: lists of numbers run on as text does."""
    return render(copy.deepcopy(content), "") + "\n"


def render(value, indent):
    line = json.dumps(value)
    if len(indent) + len(line) <= 118 or not isinstance(value, (dict, list)) or not value:
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        items = [f"{inner}{json.dumps(key)}: {render(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if not isinstance(value[0], (dict, list)):
        lines = textwrap.wrap(line[1:-1], 118, initial_indent=inner, subsequent_indent=inner)
        return "[\n" + "\n".join(lines) + f"\n{indent}]"
    return "[\n" + ",\n".join(inner + render(item, inner) for item in value) + f"\n{indent}]"
