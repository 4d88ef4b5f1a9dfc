"""What `transformers` reads from generated config.json files: every spelling that its releases have had.

    python scripts/reference/make_config_variants.py           writes tests/golden/hf_config_variants.json
    python scripts/reference/make_config_variants.py --check   errors if it would be written differently

Each variant is a config.json, what the classes of `transformers` make of it (null where they refuse it),
and whether Lingot may refuse it: because its model computes something else, or because two spellings
contradict each other. A test of `lingot-formats` holds Lingot's own reading against it.
"""

import argparse
import json
import pathlib
import random
import sys

from transformers import (
    Dots1Config,
    Glm4MoeConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen3MoeConfig,
    logging,
)

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/hf_config_variants.json"
COUNT = 200
# Of each further format.
MORE = 80

COMMON = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "moe_intermediate_size": 10,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}
QWEN = COMMON | {"model_type": "qwen3_moe", "num_experts": 6, "norm_topk_prob": True}
GLM = COMMON | {
    "model_type": "glm4_moe",
    "n_routed_experts": 6,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "use_qk_norm": True,
    "num_nextn_predict_layers": 0,
}


MIXTRAL = COMMON | {"model_type": "mixtral", "num_local_experts": 6}
OLMOE = COMMON | {"model_type": "olmoe", "num_experts": 6, "norm_topk_prob": True}
DOTS1 = GLM | {"model_type": "dots1"}
for config, unused in [
    (MIXTRAL, "moe_intermediate_size"),
    (OLMOE, "moe_intermediate_size"),
    (DOTS1, "use_qk_norm"),
    (DOTS1, "num_nextn_predict_layers"),
]:
    del config[unused]
# Format -> a whole config.json, and the keys that may be absent.
FURTHER = {
    "mixtral": (MIXTRAL, ["num_local_experts", "num_experts_per_tok", "num_key_value_heads"]),
    "olmoe": (OLMOE, ["num_experts", "num_experts_per_tok", "norm_topk_prob", "intermediate_size"]),
    "dots1": (DOTS1, ["norm_topk_prob", "n_group", "topk_group", "first_k_dense_replace"]),
}
ABSENT = ["head_dim", "tie_word_embeddings", "rms_norm_eps", "hidden_act"]


def rope_object(draw):
    """The object under rope_scaling or rope_parameters, and whether Lingot may refuse it."""
    nested, may_refuse = {}, False
    kind = draw.choice(["default"] * 6 + ["linear", "yarn", "dynamic", "llama3"])
    nested[draw.choice(["rope_type", "rope_type", "type"])] = kind
    if kind != "default":
        nested |= {"factor": 4.0, "original_max_position_embeddings": 32}
        nested |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
        may_refuse = True
    if draw.random() < 0.7:
        nested["rope_theta"] = draw.choice([1e4, 5e5, 1e6, 10000])
    if draw.random() < 0.3:
        nested["partial_rotary_factor"] = draw.choice([0.25, 0.5, 1.0])
    if draw.random() < 0.1:
        nested["mrope_section"] = [1, 1, 2]
        may_refuse = True
    return nested, may_refuse


def variant(draw):
    """A config.json, and whether Lingot may refuse it."""
    is_qwen = draw.random() < 0.5
    config, may_refuse = dict(QWEN if is_qwen else GLM), False
    if draw.random() < 0.5:
        config["rope_theta"] = draw.choice([1e4, 2e5, 1000000])
    for key, chance in [("rope_scaling", 0.5), ("rope_parameters", 0.4)]:
        if draw.random() < chance:
            kind = draw.choice(["null", "empty", "object", "object", "object"])
            config[key], refused = {"null": (None, False), "empty": ({}, False)}.get(kind) or rope_object(
                draw
            )
            may_refuse |= refused
    if draw.random() < (0.1 if is_qwen else 0.4):
        config["partial_rotary_factor"] = draw.choice([0.25, 0.5, 1.0])
    for key in ["head_dim", "norm_topk_prob", "tie_word_embeddings", "rms_norm_eps", "hidden_act"]:
        if draw.random() < 0.1:
            del config[key]
    if draw.random() < 0.1:
        del config["num_key_value_heads"]
        config |= {"num_attention_heads": 8, "head_dim": 8}
    experts = "num_experts" if is_qwen else "n_routed_experts"
    spelling = draw.choice(["one", "one", "other", "both", "conflict"])
    if spelling != "one":
        config["num_local_experts"] = 6 if spelling != "conflict" else 8
        may_refuse |= spelling == "conflict"
    if spelling == "other":
        del config[experts]
    if is_qwen:
        if draw.random() < 0.4:
            config["mlp_only_layers"] = draw.choice([None, [], [0], [1, 0], [1], [0, 2], [0, 9]])
        if draw.random() < 0.4:
            config["decoder_sparse_step"] = draw.choice([1, 1, 2, 3, 4])
        if draw.random() < 0.2:
            config |= {"sliding_window": 16, "use_sliding_window": draw.choice([True, False])}
            config["max_window_layers"] = 0
    else:
        if draw.random() < 0.4:
            config["first_k_dense_replace"] = draw.choice([0, 1, 2, 3])
        for key in [
            "n_shared_experts",
            "first_k_dense_replace",
            "routed_scaling_factor",
            "n_group",
            "use_qk_norm",
        ]:
            if draw.random() < 0.1:
                del config[key]
    if draw.random() < 0.1:
        config["attention_bias"] = draw.choice([True, False])
    if draw.random() < 0.1:
        config["hidden_act"] = draw.choice(["gelu", "swish"])
    if draw.random() < 0.1:
        config["layer_types"] = draw.choice([["full_attention"] * 4, ["sliding_attention"] * 4])
        may_refuse |= config["layer_types"][0] != "full_attention"
    return config, may_refuse


def further_variant(draw, format):
    """A config.json of a further format, and whether Lingot may refuse it."""
    whole, own = FURTHER[format]
    config, may_refuse = dict(whole), False
    if draw.random() < 0.5:
        config["rope_theta"] = draw.choice([1e4, 2e5, 1000000])
    for key, chance in [("rope_scaling", 0.4), ("rope_parameters", 0.4)]:
        if draw.random() < chance:
            drawn = [(None, False), ({}, False), rope_object(draw), rope_object(draw)]
            config[key], refused = draw.choice(drawn)
            may_refuse |= refused
    for key in own + ABSENT:
        if draw.random() < 0.12:
            config.pop(key, None)
    if "num_key_value_heads" not in config:
        config |= {"num_attention_heads": 8}
    experts = {"mixtral": "num_experts", "olmoe": "num_local_experts", "dots1": "num_local_experts"}[format]
    if draw.random() < 0.3:
        config[experts] = draw.choice([6, 6, 8])
        may_refuse |= config[experts] != whole.get("num_local_experts", whole.get("num_experts", 6))
    if draw.random() < 0.3:
        config["sliding_window"] = draw.choice([None, None, 16])
        if format == "dots1":
            config["max_window_layers"] = draw.choice([0, 2, 4, 9])
    if draw.random() < 0.1:
        config["layer_types"] = draw.choice([["full_attention"] * 4, ["sliding_attention"] * 4])
        may_refuse |= config["layer_types"][0] != "full_attention"
    if draw.random() < 0.2:
        config |= draw.choice([{"clip_qkv": 8.0}, {"clip_qkv": None}, {"attention_bias": True}])
        # Other classes than OLMoE's do not look at it.
        may_refuse |= config.get("clip_qkv") is not None or config.get("attention_bias", False)
    if draw.random() < 0.1:
        config["hidden_act"] = draw.choice(["gelu", "swish"])
    if format == "olmoe" and draw.random() < 0.5:
        config |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16}
    return config, may_refuse


def further_reading(config):
    """What `transformers` reads of a further format, and whether Lingot does not have the model."""
    format = config["model_type"]
    kind = {"mixtral": MixtralConfig, "olmoe": OlmoeConfig, "dots1": Dots1Config}[format]
    read = kind(**json.loads(json.dumps({key: v for key, v in config.items() if key != "model_type"})))
    rope, is_dots1 = read.rope_parameters, format == "dots1"
    head_dim = getattr(read, "head_dim", None) or read.hidden_size // read.num_attention_heads
    dense = min(read.first_k_dense_replace, read.num_hidden_layers) if is_dots1 else 0
    values = {
        "vocabulary": read.vocab_size,
        "width": read.hidden_size,
        "layers": read.num_hidden_layers,
        "heads": read.num_attention_heads,
        "kv_heads": read.num_key_value_heads,
        "head_width": head_dim,
        "experts": read.num_local_experts,
        "choices": read.num_experts_per_tok,
        "expert_width": read.moe_intermediate_size if is_dots1 else read.intermediate_size,
        "shared_experts": read.n_shared_experts if is_dots1 else 0,
        "dense_layers": dense,
        "dense_width": read.intermediate_size if dense else 0,
        "rope_theta": float(rope["rope_theta"]),
        "rotary_width": head_dim,
        "norm_epsilon": read.rms_norm_eps,
        "tied": read.tie_word_embeddings,
        "qk_norm": format != "mixtral",
        "renormalise": True if format == "mixtral" else read.norm_topk_prob,
        "scale": read.routed_scaling_factor if is_dots1 else 1.0,
        "groups": read.n_group if is_dots1 else 1,
        "groups_kept": read.topk_group if is_dots1 else 1,
    }
    slides = getattr(read, "sliding_window", None) is not None
    if is_dots1:
        slides = "sliding_attention" in read.layer_types
    is_other = (
        rope["rope_type"] != "default"
        or rope.get("partial_rotary_factor", 1.0) != 1.0
        or read.hidden_act not in ("silu", "swish")
        or getattr(read, "clip_qkv", None) is not None
        or (getattr(read, "attention_bias", False) and format != "mixtral")
        or (slides and format != "olmoe")
        or read.num_experts_per_tok > read.num_local_experts
    )
    return values, is_other


def reading(config):
    """What `transformers` reads, and whether the model is one that Lingot does not have."""
    if config["model_type"] in FURTHER:
        return further_reading(config)
    kind = Qwen3MoeConfig if config["model_type"] == "qwen3_moe" else Glm4MoeConfig
    is_qwen = kind is Qwen3MoeConfig
    read = kind(
        **json.loads(json.dumps({key: value for key, value in config.items() if key != "model_type"}))
    )
    rope = read.rope_parameters
    head_dim = getattr(read, "head_dim", None) or read.hidden_size // read.num_attention_heads
    layers = range(read.num_hidden_layers)
    if is_qwen:
        step = read.decoder_sparse_step
        dense = [i for i in layers if i in read.mlp_only_layers or (i + 1) % step != 0]
        factor = 1.0
    else:
        dense = [i for i in layers if i < read.first_k_dense_replace]
        factor = rope["partial_rotary_factor"]
    values = {
        "vocabulary": read.vocab_size,
        "width": read.hidden_size,
        "layers": read.num_hidden_layers,
        "heads": read.num_attention_heads,
        "kv_heads": read.num_key_value_heads,
        "head_width": head_dim,
        "experts": read.num_experts if is_qwen else read.n_routed_experts,
        "choices": read.num_experts_per_tok,
        "expert_width": read.moe_intermediate_size,
        "shared_experts": 0 if is_qwen else read.n_shared_experts,
        "dense_layers": len(dense),
        "dense_width": read.intermediate_size if dense else 0,
        "rope_theta": float(rope["rope_theta"]),
        "rotary_width": int(head_dim * factor),
        "norm_epsilon": read.rms_norm_eps,
        "tied": read.tie_word_embeddings,
        "qk_norm": True if is_qwen else read.use_qk_norm,
        "renormalise": read.norm_topk_prob,
        "scale": 1.0 if is_qwen else read.routed_scaling_factor,
        "groups": 1 if is_qwen else read.n_group,
        "groups_kept": 1 if is_qwen else read.topk_group,
    }
    is_other = (
        rope["rope_type"] != "default"
        or read.hidden_act not in ("silu", "swish")
        or read.attention_bias
        or getattr(read, "sliding_window", None) is not None
        or dense != list(range(len(dense)))
        or len(dense) == read.num_hidden_layers
        or values["rotary_width"] % 2 != 0
        or (is_qwen and rope.get("partial_rotary_factor", 1.0) != 1.0)
    )
    return values, is_other


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    draw, more, variants = random.Random(21), random.Random(22), []
    further = [format for format in FURTHER for _ in range(MORE)]
    while len(variants) < COUNT + len(further):
        if len(variants) < COUNT:
            config, may_refuse = variant(draw)
        else:
            config, may_refuse = further_variant(more, further[len(variants) - COUNT])
        try:
            values, is_other = reading(config)
        except Exception:
            values, is_other = None, True
        variants.append({"config": config, "reading": values, "may_refuse": may_refuse or is_other})
    text = "[\n" + ",\n".join(json.dumps(variant) for variant in variants) + "\n]\n"
    if arguments.check:
        sys.exit(0 if GOLDEN.read_text() == text else f"{GOLDEN} differs from what transformers reads")
    GOLDEN.write_text(text)
    must = sum(not variant["may_refuse"] for variant in variants)
    print(f"{len(variants)} variants, {must} of which Lingot must read alike")


if __name__ == "__main__":
    main()
