"""Opens an exported model with transformers and prints, as one JSON object, what it computes.

    python scripts/check_export.py MODEL_FOLDER --text "To be"
    python scripts/check_export.py MODEL_FOLDER --tokens 5,17,33
    python scripts/check_export.py MODEL_FOLDER --expect EXPECTED.json

EXPECTED.json holds `tokens` (the prompt), `continuation` (the greedy tokens after it) and `last_logits`
(the logits after the last tokens of the prompt, one row each), as Lingot computed them; the exit code is 1
when transformers disagrees. Any of the three may be left out.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging


def main():
    arguments = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    expected = json.loads(arguments.expect.read_text()) if arguments.expect else {}
    model, names = load(arguments.folder)
    tokenizer = load_tokenizer(arguments.folder)
    tokens = prompt(arguments, expected, tokenizer)
    new = len(expected.get("continuation", range(arguments.new)))
    rows = len(expected.get("last_logits", [0]))
    logits, continuation = compute(model, tokens, new, rows)
    report = {
        "class": type(model).__name__,
        "missing": names["missing"],
        "unexpected": names["unexpected"],
        "tokens": tokens,
        "last_logits": logits.tolist(),
        "continuation": continuation,
    }
    if tokenizer is not None:
        report |= {
            "tokenizer": type(tokenizer).__name__,
            "eos": tokenizer.eos_token,
            "text": tokenizer.decode(continuation),
        }
    problems = names["problems"] + disagreements(expected, logits, continuation, arguments.tolerance)
    print(json.dumps(report | {"problems": problems}, ensure_ascii=False))
    sys.exit(1 if problems else 0)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="what `lingot export` wrote")
    parser.add_argument(
        "--tokens", type=lambda text: [int(token) for token in text.split(",")], help="the prompt: 5,17,33"
    )
    parser.add_argument("--text", help="the prompt, for a model with a tokenizer")
    parser.add_argument("--new", type=int, default=16, help="greedy tokens to append (16)")
    parser.add_argument("--expect", type=Path, help="what it should be, as JSON")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="of the logits, absolute and relative (1e-4)"
    )
    return parser.parse_args()


def load(folder):
    """The model in f32, and whether every tensor found its place. Extra layers are the
    multi-token-prediction layer, which transformers leaves out unless asked."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    extra = f"model.layers.{model.config.num_hidden_layers}."
    missing = sorted(info["missing_keys"])
    unexpected = sorted(name for name in info["unexpected_keys"] if not name.startswith(extra))
    wrong = [str(name) for name in info["mismatched_keys"]]
    problems = [f"missing {name}" for name in missing] + [f"unexpected {name}" for name in unexpected]
    problems += [f"of another shape: {name}" for name in wrong]
    return model.eval(), {"missing": missing, "unexpected": unexpected, "problems": problems}


def load_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer.json").exists() else None


def prompt(arguments, expected, tokenizer):
    if arguments.tokens:
        return arguments.tokens
    if arguments.text is not None:
        if tokenizer is None:
            sys.exit(f"{arguments.folder} has no tokenizer.json\n\nhint: give --tokens")
        return tokenizer(arguments.text)["input_ids"]
    return expected.get("tokens", [1, 2, 3, 4])


@torch.no_grad()
def compute(model, tokens, new, rows):
    """Greedy by hand: one forward of everything for each token, so that no cache and no stopping rule is
    involved."""
    logits = model(torch.tensor([tokens])).logits[0, -rows:].float()
    all_tokens = list(tokens)
    for _ in range(new):
        all_tokens.append(int(model(torch.tensor([all_tokens])).logits[0, -1].argmax()))
    return logits, all_tokens[len(tokens) :]


def disagreements(expected, logits, continuation, tolerance):
    problems = []
    if "last_logits" in expected:
        wanted = torch.tensor(expected["last_logits"], dtype=torch.float32)
        if wanted.shape != logits.shape:
            problems.append(f"logits of shape {list(logits.shape)}, expected {list(wanted.shape)}")
        elif not torch.allclose(logits, wanted, rtol=tolerance, atol=tolerance):
            problems.append(
                f"logits differ by {(logits - wanted).abs().max().item():.3g}, more than {tolerance}"
            )
    if "continuation" in expected and expected["continuation"] != continuation:
        problems.append(f"greedy tokens {continuation}, expected {expected['continuation']}")
    return problems


if __name__ == "__main__":
    main()
