"""Proves the reference model against transformers' own Qwen3-MoE and GLM-4-MoE classes, and makes fixtures
of those.

With the same weights, transformers' classes give the same loss, gradients and ten optimizer steps as the
reference. What tests/golden/qwen3_moe and tests/golden/glm4_moe expect comes from transformers.
tests/golden/hf_qwen3_moe and tests/golden/hf_glm4_moe are small models as `save_pretrained` writes them,
with some of their logits and greedy text.

    python scripts/reference/check_transformers.py            proves, then writes the fixtures
    python scripts/reference/check_transformers.py --check    proves, then compares with those that are there
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM, logging

from fixtures import (
    GOLDEN,
    HYPERPARAMETERS,
    SAFE_MARGIN,
    ReferenceSubject,
    check,
    compare_json,
    differences,
    draw_batches,
    draw_tensors,
    dumps,
    files_of,
    record,
    write,
)
from make_fixtures import V1, V1_ROUTER, V2, V2_ROUTER
from model import cross_entropy, tensor_shapes, update_bias

SEQUENCE = 24
NO_AUXILIARY = {"balance_loss": 0.0, "z_loss": 0.0}
SPECS = {
    "qwen3_moe": V1
    | {"qk_norm": True, "shared_experts": 0, "rope_theta": 1e6, "router": V1_ROUTER | NO_AUXILIARY},
    "glm4_moe": V2 | {"head_width": 8, "norm_epsilon": 1e-5, "router": V2_ROUTER | NO_AUXILIARY},
}
# The seeds of the golden case and of the saved model; the decisions of both are clear.
SEEDS = {"qwen3_moe": (19, 1), "glm4_moe": (1, 2)}
PROMPT = [5, 17, 33, 2, 61, 17, 8, 40]
CONTINUED = 12


def config_of(format, spec):
    common = {
        "vocab_size": spec["vocabulary"],
        "hidden_size": spec["width"],
        "num_hidden_layers": spec["layers"],
        "num_attention_heads": spec["heads"],
        "num_key_value_heads": spec["kv_heads"],
        "head_dim": spec["head_width"],
        "num_experts_per_tok": spec["choices"],
        "moe_intermediate_size": spec["expert_width"],
        "intermediate_size": max(spec["dense_width"], spec["expert_width"]),
        "rms_norm_eps": spec["norm_epsilon"],
        "norm_topk_prob": spec["router"]["renormalise"],
        "tie_word_embeddings": spec["tied"],
        "max_position_embeddings": 512,
        "attention_bias": False,
    }
    rope = {"rope_type": "default", "rope_theta": spec["rope_theta"]}
    if format == "qwen3_moe":
        return Qwen3MoeConfig(
            num_experts=spec["experts"],
            rope_parameters=rope,
            mlp_only_layers=list(range(spec["dense_layers"])),
            router_aux_loss_coef=0.0,
            **common,
        )
    factor = spec["rotary_width"] / spec["head_width"]
    return Glm4MoeConfig(
        n_routed_experts=spec["experts"],
        n_shared_experts=spec["shared_experts"],
        use_qk_norm=spec["qk_norm"],
        n_group=spec["router"]["groups"],
        topk_group=spec["router"]["groups_kept"],
        routed_scaling_factor=spec["router"]["scale"],
        first_k_dense_replace=spec["dense_layers"],
        rope_parameters=rope | {"partial_rotary_factor": factor},
        partial_rotary_factor=factor,
        num_mtp_layers=0,
        **common,
    )


def model_of(format, spec):
    model = {"qwen3_moe": Qwen3MoeForCausalLM, "glm4_moe": Glm4MoeForCausalLM}[format](
        config_of(format, spec)
    )
    model.config._attn_implementation = "eager"
    model.config._experts_implementation = "eager"
    return model.train()


def theirs(name):
    """Our tensor's names in transformers: one, or two that ours stacks row after row."""
    fixed = {
        "embedding": "model.embed_tokens.weight",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
    }
    if name in fixed:
        return [fixed[name]]
    _, layer, part = name.split(".")
    parts = {
        "attention_norm": ["input_layernorm.weight"],
        "mlp_norm": ["post_attention_layernorm.weight"],
        "query": ["self_attn.q_proj.weight"],
        "key": ["self_attn.k_proj.weight"],
        "value": ["self_attn.v_proj.weight"],
        "query_norm": ["self_attn.q_norm.weight"],
        "key_norm": ["self_attn.k_norm.weight"],
        "output": ["self_attn.o_proj.weight"],
        "router": ["mlp.gate.weight"],
        "dense_gate_up": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
        "dense_down": ["mlp.down_proj.weight"],
        "experts_gate_up": ["mlp.experts.gate_up_proj"],
        "experts_down": ["mlp.experts.down_proj"],
        "shared_gate_up": ["mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"],
        "shared_down": ["mlp.shared_experts.down_proj.weight"],
        "selection_bias": ["mlp.gate.e_score_correction_bias"],
    }
    return [f"model.layers.{layer}.{name}" for name in parts[part]]


@torch.no_grad()
def fill(model, arrays):
    """Our tensors into their model; every tensor of theirs must be met."""
    tensors = dict(model.named_parameters()) | {
        n: b for n, b in model.named_buffers() if "correction_bias" in n
    }
    for name, array in arrays.items():
        targets = theirs(name)
        for target, part in zip(targets, numpy.split(array, len(targets))):
            tensors.pop(target).copy_(torch.from_numpy(part.copy()))
    assert not tensors, f"transformers has more tensors: {list(tensors)}"


class TransformersSubject:
    """A model of transformers behind the interface that `record` asks for.

    Its weights are f64; its norms, softmaxes and router compute in f32 whatever the weights are."""

    dtype = torch.float64

    def __init__(self, format, spec, arrays):
        self.model, self.spec = model_of(format, spec).double(), spec
        fill(self.model, arrays)
        self.names, self.tensors = list(arrays), dict(self.model.named_parameters()) | dict(
            self.model.named_buffers()
        )
        norms = [p for p in self.model.parameters() if p.ndim == 1]
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        groups = [
            {"params": matrices, "weight_decay": HYPERPARAMETERS["decay"]},
            {"params": norms, "weight_decay": 0.0},
        ]
        betas = (HYPERPARAMETERS["beta1"], HYPERPARAMETERS["beta2"])
        self.adamw = torch.optim.AdamW(groups, betas=betas, eps=HYPERPARAMETERS["epsilon"], foreach=False)
        self.loads, self.margin = {}, float("inf")
        for layer in range(spec["dense_layers"], spec["layers"]):
            self.model.model.layers[layer].mlp.gate.register_forward_hook(self.count(f"layers.{layer}"))

    def count(self, name):
        def hook(_module, _inputs, outputs):
            self.loads[name] = torch.bincount(outputs[2].flatten(), minlength=self.spec["experts"])

        return hook

    def differentiate(self, batch):
        """Their model knows no documents; the 4D mask tells it."""
        rows = batch.tokens.view(-1, batch.sequence)
        starts = (batch.starts - torch.arange(batch.tokens.numel()) // batch.sequence * batch.sequence).view(
            rows.shape
        )
        t = torch.arange(batch.sequence)
        visible = (t[None, None, :] <= t[None, :, None]) & (t[None, None, :] >= starts[:, :, None])
        mask = torch.zeros(visible.shape, dtype=self.dtype).masked_fill(~visible, torch.finfo(self.dtype).min)
        positions = batch.positions.view(rows.shape)
        logits = self.model(
            rows, attention_mask=mask[:, None], position_ids=positions, use_cache=False
        ).logits
        loss, _ = cross_entropy(logits.flatten(0, 1), batch.targets)
        loss.backward()
        return {"main": loss.item(), "mtp": 0.0, "balance": 0.0, "z": 0.0, "total": loss.item()}

    def gradients(self):
        return {name: self.joined(name, lambda tensor: tensor.grad) for name in tensor_shapes(self.spec)}

    def step(self, rate):
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, HYPERPARAMETERS["clip"], foreach=False).item()
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad()
        for name, load in self.loads.items():
            if self.spec["router"]["selection_bias"]:
                update_bias(
                    self.tensors[theirs(f"{name}.selection_bias")[0]], load, HYPERPARAMETERS["bias_rate"]
                )
        return norm

    def state(self):
        return {name: self.joined(name, lambda tensor: tensor) for name in self.names}

    def joined(self, name, what):
        return torch.cat([what(self.tensors[part]).detach() for part in theirs(name)]).numpy().copy()


def golden(format):
    """The files of tests/golden/<format>, once the reference and transformers agree."""
    spec = copy.deepcopy(SPECS[format])
    random = numpy.random.default_rng([*format.encode(), SEEDS[format][0]])
    initial, batches = draw_tensors(spec, random), draw_batches(spec, 2, SEQUENCE, random)
    ours = record(ReferenceSubject(spec, initial, HYPERPARAMETERS), spec, batches, SEQUENCE, HYPERPARAMETERS)
    assert ours[3] > SAFE_MARGIN, f"{format}: a decision was made by {ours[3]:.1e}"
    expected = record(TransformersSubject(format, spec, initial), spec, batches, SEQUENCE, HYPERPARAMETERS)
    apart = differences(ours, expected)
    assert max(apart.values()) < 1e-5, f"{format}: the reference and transformers differ: {apart}"
    for step, other in zip(ours[0]["steps"], expected[0]["steps"]):
        assert step["loads"] == other["loads"], f"{format}: other experts were chosen"
        # The reference counts auxiliary losses that weigh nothing here; transformers does not.
        other |= {"balance": step["balance"], "z": step["z"]}
    print(f"{format:16} reference and transformers differ by: {apart}")
    return files_of(spec, initial, batches, expected[0], expected[1], expected[2])


def save_model(format, folder):
    """A model as `save_pretrained` leaves it, in two shards: Qwen3-MoE in bf16, GLM-4-MoE in f32."""
    # Experts as wide as transformers' grouped products need them, so that the model opens with the defaults.
    spec = SPECS[format] | {"expert_width": 8}
    model = model_of(format, spec)
    fill(model, draw_tensors(spec, numpy.random.default_rng([*format.encode(), SEEDS[format][1]])))
    if format == "qwen3_moe":
        model = model.to(torch.bfloat16)
    bytes_total = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=bytes_total * 6 // 10)
    assert len(list(folder.glob("*.safetensors"))) == 2
    kinds = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return expectations(type(model).from_pretrained(folder, dtype=torch.float32, **kinds).eval())


@torch.no_grad()
def expectations(model):
    """What an importer must reproduce, in f32 from the saved weights."""
    prompt = torch.tensor([PROMPT])
    logits = model(prompt).logits[0, -3:]
    tokens = model.generate(prompt, max_new_tokens=CONTINUED, do_sample=False)[0].tolist()
    best_two = model(torch.tensor([tokens])).logits[0, len(PROMPT) - 1 : -1].topk(2).values
    assert (best_two[:, 0] - best_two[:, 1]).min() > 1e-2, "a greedy choice is too close; choose another seed"
    return {"tokens": PROMPT, "continuation": tokens[len(PROMPT) :], "last_logits": logits.double().tolist()}


def compare_saved(folder, new, expected):
    """That a saved model holds the same tensors and configuration as the one of the fixture."""
    old = json.loads((folder / "expected.json").read_text())
    assert numpy.allclose(old.pop("last_logits"), expected.pop("last_logits"), rtol=1e-4, atol=1e-4), folder
    assert old == expected, folder
    for path in new.iterdir():
        if path.suffix == ".safetensors":
            a, b = load_file(path), load_file(folder / path.name)
            assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a), path.name
        else:
            compare_json(
                path.name, json.loads((folder / path.name).read_text()), json.loads(path.read_text())
            )


def main():
    parser = argparse.ArgumentParser(
        description="Checks the reference against transformers and makes its fixtures."
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files instead of writing"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for format in SPECS:
        files = golden(format)
        folder = GOLDEN / f"hf_{format}"
        if arguments.check:
            # Looser than for the reference: transformers computes norms, softmaxes and routers in f32.
            print(f"{format:16} fixture equal to {check(GOLDEN / format, files, tolerance=1e-5):.0e}")
            with tempfile.TemporaryDirectory() as new:
                compare_saved(folder, Path(new), save_model(format, Path(new)))
            continue
        write(GOLDEN / format, files)
        for old in folder.glob("*"):
            old.unlink()
        folder.mkdir(exist_ok=True)
        (folder / "expected.json").write_text(dumps(save_model(format, folder)))


if __name__ == "__main__":
    main()
