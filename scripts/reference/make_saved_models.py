"""Small models of the further formats as transformers saves them, and what they compute.

    python scripts/reference/make_saved_models.py            writes tests/golden/hf_<name>/
    python scripts/reference/make_saved_models.py --check    compares with those that are there

`hf_<format>_stacked` are saved with `save_original_format=False`: the experts of a layer in two tensors. The
files of Qwen3-MoE and GLM-4-MoE are check_transformers.py's.
"""

import argparse
import tempfile
from pathlib import Path

import numpy
import torch
from transformers import (
    Dots1Config,
    Dots1ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeForCausalLM,
    logging,
)

import check_transformers
from check_transformers import SPECS, compare_saved, expectations, fill
from fixtures import GOLDEN, draw_tensors, dumps
from make_fixtures import V1, V1_ROUTER, V2, V2_ROUTER

MIXTRAL = V1 | {"shared_experts": 0, "head_width": 6, "rotary_width": 6, "expert_width": 8, "rope_theta": 1e6}
# One head, so that the norm over all heads is that of a head.
ONE_HEAD = {"heads": 1, "kv_heads": 1, "head_width": 16, "rotary_width": 16, "qk_norm": True}
OLMOE = MIXTRAL | ONE_HEAD | {"choices": 3, "router": V1_ROUTER | {"renormalise": False}}
DOTS1 = V2 | {"rotary_width": 6, "shared_experts": 2, "expert_width": 8, "router": V2_ROUTER}
QWEN3_MOE = SPECS["qwen3_moe"] | {"expert_width": 8}

# Name -> format, spec, seed (its greedy choices are clear), element type, as the original writes it.
MODELS = {
    "mixtral": ("mixtral", MIXTRAL, 1, torch.bfloat16, True),
    "mixtral_stacked": ("mixtral", MIXTRAL | {"tied": True}, 1, torch.float32, False),
    "olmoe": ("olmoe", OLMOE, 2, torch.float32, True),
    "dots1": ("dots1", DOTS1, 2, torch.float32, True),
    "dots1_stacked": ("dots1", DOTS1, 1, torch.bfloat16, False),
    "qwen3_moe_stacked": ("qwen3_moe", QWEN3_MOE, 1, torch.float32, False),
}
CLASSES = {
    "mixtral": MixtralForCausalLM,
    "olmoe": OlmoeForCausalLM,
    "dots1": Dots1ForCausalLM,
    "qwen3_moe": Qwen3MoeForCausalLM,
}


def config_of(format, spec):
    if format == "qwen3_moe":
        return check_transformers.config_of(format, spec)
    router = spec["router"]
    common = {
        "vocab_size": spec["vocabulary"],
        "hidden_size": spec["width"],
        "num_hidden_layers": spec["layers"],
        "num_attention_heads": spec["heads"],
        "num_key_value_heads": spec["kv_heads"],
        "num_experts_per_tok": spec["choices"],
        "rms_norm_eps": spec["norm_epsilon"],
        "tie_word_embeddings": spec["tied"],
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec["rope_theta"]},
        # The classes of mixtral and olmoe name ends that these vocabularies do not have.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if format == "mixtral":
        widths = {"intermediate_size": spec["expert_width"], "head_dim": spec["head_width"]}
        return MixtralConfig(num_local_experts=spec["experts"], **widths, **common)
    if format == "olmoe":
        return OlmoeConfig(
            num_experts=spec["experts"],
            intermediate_size=spec["expert_width"],
            norm_topk_prob=router["renormalise"],
            **common,
        )
    return Dots1Config(
        n_routed_experts=spec["experts"],
        n_shared_experts=spec["shared_experts"],
        moe_intermediate_size=spec["expert_width"],
        intermediate_size=spec["dense_width"],
        first_k_dense_replace=spec["dense_layers"],
        n_group=router["groups"],
        topk_group=router["groups_kept"],
        routed_scaling_factor=router["scale"],
        norm_topk_prob=router["renormalise"],
        head_dim=spec["head_width"],
        **common,
    )


def save(name, folder):
    """Writes the model, in two files; returns what an importer must reproduce."""
    format, spec, seed, dtype, is_original = MODELS[name]
    torch.manual_seed(0)
    model = CLASSES[format](config_of(format, spec)).eval()
    arrays = draw_tensors(spec, numpy.random.default_rng([*name.encode(), seed]))
    fill(model, arrays)
    model = model.to(dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size * 6 // 10, save_original_format=is_original)
    kinds = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return expectations(CLASSES[format].from_pretrained(folder, dtype=torch.float32, **kinds).eval())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in MODELS:
        folder = GOLDEN / f"hf_{name}"
        if arguments.check:
            with tempfile.TemporaryDirectory() as new:
                compare_saved(folder, Path(new), save(name, Path(new)))
            print(f"{name:18} as it was saved")
            continue
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*"):
            old.unlink()
        (folder / "expected.json").write_text(dumps(save(name, folder)))
        print(f"{name:18} {len(list(folder.glob('*.safetensors')))} files")


if __name__ == "__main__":
    main()
