"""Which token `transformers` takes for the end of a text, from generated folders of a tokenizer.

    python scripts/reference/make_tokenizer_variants.py
        writes tests/golden/hf_tokenizer_variants.json
    python scripts/reference/make_tokenizer_variants.py --check
        errors if it would be written differently

Each variant is what the files beside one tokenizer.json hold, and the `eos_token_id` that `transformers`
gives; null where it names none. A test of `lingot-data` holds Lingot's own reading against it. An end that
the tokenizer does not have becomes a token of its own in `transformers`, which no text can contain; Lingot
refuses it.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile

from transformers import PreTrainedTokenizerFast, logging

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/hf_tokenizer_variants.json"
COUNT = 60


def special(number, content):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, "special": True} | plain


TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "added_tokens": [special(0, "<s>"), special(1, "</s>"), special(2, "<|im_end|>")],
    "model": {
        "type": "WordLevel",
        "vocab": {"<s>": 0, "</s>": 1, "<|im_end|>": 2, "a": 3, "b": 4},
        "unk_token": "a",
    },
}


def named(draw, mark):
    """A token as a file may name it; `mark` is what an object needs beside its content."""
    token = draw.choice(["</s>", "<|im_end|>", "<s>", "a", "<none>"])
    kind = draw.choice(["text", "text", "object", "null"])
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"text": token, "object": mark | {"content": token} | flags, "null": None}[kind]


def variant(draw):
    files = {}
    if draw.random() < 0.8:
        config = {"tokenizer_class": "PreTrainedTokenizerFast"}
        if draw.random() < 0.7:
            config["eos_token"] = named(draw, {"__type": "AddedToken"})
        if draw.random() < 0.4:
            listed = [special(0, "<s>"), special(1, "</s>"), special(2, "<|im_end|>")]
            config["added_tokens_decoder"] = {
                str(token["id"]): {key: value for key, value in token.items() if key != "id"}
                for token in listed
            }
        files["tokenizer_config.json"] = config
    if draw.random() < 0.6:
        end = {"eos_token": named(draw, {})} if draw.random() < 0.8 else {}
        files["special_tokens_map.json"] = {"bos_token": "<s>"} | end
    return files


def reading(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (files | {"tokenizer.json": TOKENIZER}).items():
            (pathlib.Path(folder) / name).write_text(json.dumps(content))
        return PreTrainedTokenizerFast.from_pretrained(folder).eos_token_id


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    draw = random.Random(5)
    variants = [{"files": files, "end": reading(files)} for files in (variant(draw) for _ in range(COUNT))]
    lines = ",\n".join(json.dumps(variant) for variant in variants)
    text = f'{{"tokenizer": {json.dumps(TOKENIZER)}, "variants": [\n{lines}\n]}}\n'
    if arguments.check:
        sys.exit(0 if GOLDEN.read_text() == text else f"{GOLDEN} differs from what transformers reads")
    GOLDEN.write_text(text)
    named_ends = sum(variant["end"] is not None for variant in variants)
    print(f"{len(variants)} variants, {named_ends} of which name an end")


if __name__ == "__main__":
    main()
