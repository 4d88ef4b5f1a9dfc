"""Trains the PyTorch reference on the batches of a Lingot run and prints its held-out loss as JSON.

    python scripts/reference/train.py --spec spec.json --weights initial.safetensors \\
        --batches folder --hyperparameters hyperparameters.json

The folder holds batch-00000.safetensors, batch-00001.safetensors, ..., one for each step, with the i32
tensors tokens, targets, starts and positions [T]. The hyperparameters are `sequence` (tokens of a
sequence), `rates` (one for each step), `beta1`, `beta2`, `epsilon`, `decay`, `clip`, `bias_rate`,
`validation` (files like the batches, their paths relative to the folder) and, if a step does not fit into
memory at once, `micro_sequences`. Everything is computed in f32.
"""

import argparse
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from model import Batch, Reference, mtp_targets, optimizer, router_names, tensor_shapes, update

# The running mean and deviation of the router's logits during the warmup: the share of the past.
STATISTICS_MEMORY = 0.99


def read_batch(path, sequence):
    tensors = load_file(path)
    return Batch(*(tensors[name].long() for name in ("tokens", "targets", "starts", "positions")), sequence)


def read_state(path, spec):
    """Weights and buffers; a buffer that the file lacks begins neutral."""
    tensors = load_file(path)
    weights = {}
    for name, (shape, _) in tensor_shapes(spec).items():
        weights[name] = tensors[name].float()
        if weights[name].shape != shape:
            raise SystemExit(f"{path}: {name} is {list(weights[name].shape)}, the model needs {list(shape)}")
        weights[name].requires_grad_()
    buffers = {}
    for name in router_names(spec):
        neutral = {}
        if spec["router"]["selection_bias"]:
            neutral["selection_bias"] = torch.zeros(spec["experts"])
        if spec["router"]["warmup_steps"] > 0:
            neutral["logit_statistics"] = torch.tensor([0.0, 1.0])
        for part, value in neutral.items():
            buffers[f"{name}.{part}"] = tensors.get(f"{name}.{part}", value).float()
    return weights, buffers


def split(batch, sequences):
    """The batch in parts of so many sequences, whole when that is None."""
    size = batch.tokens.numel() if sequences is None else sequences * batch.sequence
    for first in range(0, batch.tokens.numel(), size):
        part = slice(first, first + size)
        starts = batch.starts[part] - first
        yield Batch(batch.tokens[part], batch.targets[part], starts, batch.positions[part], batch.sequence)


def attend(query, key, value, batch):
    """As the reference's attention, sequence by sequence and fused: no document reaches over a sequence's
    end."""
    rows = [x.unflatten(0, (-1, batch.sequence)).transpose(1, 2) for x in (query, key, value)]
    t = torch.arange(batch.tokens.numel()).view(-1, batch.sequence)
    starts = batch.starts.view(-1, batch.sequence)
    visible = (t[:, None, :] <= t[:, :, None]) & (t[:, None, :] >= starts[:, :, None])
    mixed = F.scaled_dot_product_attention(*rows, attn_mask=visible[:, None], enable_gqa=True)
    return mixed.transpose(1, 2).flatten(0, 1)


def differentiate(model, batch, micro_sequences, step):
    """Gradients of the whole step's loss, micro-batch by micro-batch. Returns the loss of the targets and
    the loads."""
    spec, warmup = model.spec, model.spec["router"]["warmup_steps"]
    main_count = int((batch.targets != -1).sum())
    mtp_count = int((mtp_targets(batch) != -1).sum()) if spec["mtp_layers"] > 0 else 0
    loads = {name: torch.zeros(spec["experts"], dtype=torch.long) for name in router_names(spec)}
    main = 0.0
    for part in split(batch, micro_sequences):
        if step < warmup:
            shape = (part.tokens.numel(), spec["experts"])
            part.keep, part.noise = step / warmup, {name: torch.randn(shape) for name in router_names(spec)}
        losses = model.losses(part)
        share = part.tokens.numel() / batch.tokens.numel()
        auxiliary = spec["router"]["balance_loss"] * losses.balance + spec["router"]["z_loss"] * losses.z
        mtp = spec["mtp_weight"] * losses.mtp * losses.mtp_count / max(mtp_count, 1)
        (losses.main * losses.main_count / main_count + mtp + auxiliary * share).backward()
        main += losses.main.item() * losses.main_count / main_count
        for name, routing in losses.routings.items():
            loads[name] += routing.load
            if step < warmup:
                statistics = torch.stack([routing.logits.mean(), routing.logits.std()])
                model.buffers[f"{name}.logit_statistics"].lerp_(statistics, 1 - STATISTICS_MEMORY)
    return main, loads


@torch.no_grad()
def held_out(model, paths, sequence, micro_sequences):
    """The mean loss of all held-out targets, and how many they are; any number of sequences will do."""
    alone = {"router": model.spec["router"] | {"balance_sequences": 1}}
    model = Reference(model.spec | alone, model.weights, model.buffers, attend)
    total, count = 0.0, 0
    for path in paths:
        for part in split(read_batch(path, sequence), micro_sequences):
            losses = model.losses(part)
            total += losses.main.item() * losses.main_count
            count += losses.main_count
    return (total / count if count else None), count


def train(spec, state, folder, settings, log_every=0):
    """The trained model and the loss of every step."""
    weights, buffers = state
    model = Reference(spec, weights, buffers, attend)
    adamw = optimizer(weights, spec, settings)
    micro_sequences, trained = settings.get("micro_sequences"), []
    for step, rate in enumerate(settings["rates"]):
        batch = read_batch(folder / f"batch-{step:05}.safetensors", settings["sequence"])
        loss, loads = differentiate(model, batch, micro_sequences, step)
        norm = update(adamw, weights, buffers, loads, rate, settings)
        trained.append(loss)
        if log_every and step % log_every == 0:
            print(f"step {step:5}  loss {loss:.4f}  gradient norm {norm:.3f}", file=sys.stderr, flush=True)
    return model, trained


def main():
    parser = argparse.ArgumentParser(description="Trains the PyTorch reference on exported batches.")
    parser.add_argument("--spec", type=pathlib.Path, required=True, help="the ModelSpec as JSON")
    parser.add_argument("--weights", type=pathlib.Path, required=True, help="initial weights, safetensors")
    parser.add_argument("--batches", type=pathlib.Path, required=True, help="folder of batch-*.safetensors")
    parser.add_argument(
        "--hyperparameters", type=pathlib.Path, required=True, help="JSON, see the head of this file"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50, help="steps between lines on stderr, 0 for none")
    parser.add_argument("--save", type=pathlib.Path, help="write the trained weights here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    began = time.perf_counter()
    spec, settings = json.loads(arguments.spec.read_text()), json.loads(arguments.hyperparameters.read_text())
    state = read_state(arguments.weights, spec)
    model, trained = train(spec, state, arguments.batches, settings, arguments.log_every)
    paths = [arguments.batches / path for path in settings.get("validation", [])]
    loss, count = held_out(model, paths, settings["sequence"], settings.get("micro_sequences"))
    if arguments.save:
        save_file(
            {name: tensor.detach() for name, tensor in (model.weights | model.buffers).items()},
            arguments.save,
        )
    result = {"held_out_loss": loss, "held_out_tokens": count, "steps": len(trained), "train_losses": trained}
    print(json.dumps(result | {"wall_s": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()
