"""Opens an exported GGUF file with the `gguf` package and llama.cpp, and prints what it computes as JSON.

    python scripts/check_gguf.py model.gguf --tokens 5,17,33
    python scripts/check_gguf.py model.gguf --expect EXPECTED.json --tokenizer tokenizer.json

EXPECTED.json is that of check_export.py. With --tokenizer, llama.cpp's tokens of a few texts are compared
with those of the `tokenizers` library. The exit code is 1 where something differs, and 77 where a package is
missing.
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import gguf
    import numpy
    from llama_cpp_py_sync import Llama
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TEXTS = [
    "Once upon a time, there were 1234 cats; they'd say: \"Hello!\"\n\n  And then?",
    "fn main() {\n    let x = 1 + 2;\t// tabs\r\n}\n",
    "Über naïve Äpfel — 你好，世界 😀 0 42 3.14159",
    " leading, trailing \n \n",
]


def main():
    arguments = parse()
    expected = json.loads(arguments.expect.read_text()) if arguments.expect else {}
    tokens = arguments.tokens or expected.get("tokens", [1, 2, 3, 4])
    reader = gguf.GGUFReader(arguments.file)
    report = {
        "architecture": reader.get_field("general.architecture").contents(),
        "keys": len(reader.fields),
        "tensors": len(reader.tensors),
    }
    problems = known_names(reader, report["architecture"])
    model = Llama(str(arguments.file), n_ctx=256, n_threads=1, type_k="f32", type_v="f32")
    rows = len(expected.get("last_logits", [0]))
    logits = [evaluate(model, tokens[: len(tokens) - row]) for row in reversed(range(rows))]
    continuation = greedy(model, tokens, len(expected.get("continuation", range(8))))
    problems += disagreements(expected, logits, continuation, arguments.tolerance)
    if arguments.tokenizer:
        problems += other_tokens(model, arguments.tokenizer)
    report |= {"last_logits": numpy.array(logits).tolist(), "continuation": continuation}
    print(json.dumps(report | {"problems": problems}, ensure_ascii=False))
    sys.exit(1 if problems else 0)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="what `lingot export --format gguf` wrote")
    parser.add_argument("--tokens", type=lambda text: [int(token) for token in text.split(",")])
    parser.add_argument("--expect", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of the logits (1e-3)")
    return parser.parse_args()


def known_names(reader, architecture):
    """That the package knows every tensor of the architecture by its name."""
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]}
    problems = []
    for tensor in reader.tensors:
        stem = tensor.name.rsplit(".", 1)[0]
        parts = stem.split(".")
        if parts[0] == "blk":
            stem = ".".join(["blk", "{bid}", *parts[2:]])
        if stem not in known:
            problems.append(f"{architecture} has no tensor {tensor.name}")
    return problems


def evaluate(model, tokens):
    model._clear_context_state()
    model._eval_tokens(list(tokens), 0)
    logits = model._lib.llama_get_logits_ith(model._ctx, -1)
    return numpy.frombuffer(model._ffi.buffer(logits, 4 * model.n_vocab), dtype=numpy.float32).copy()


def greedy(model, tokens, count):
    """Everything again for each token, so that no cache and no stopping rule is involved."""
    all_tokens = list(tokens)
    for _ in range(count):
        all_tokens.append(int(evaluate(model, all_tokens).argmax()))
    return all_tokens[len(tokens) :]


def disagreements(expected, logits, continuation, tolerance):
    problems = []
    if "last_logits" in expected:
        wanted = numpy.array(expected["last_logits"], dtype=numpy.float32)
        apart = numpy.abs(numpy.array(logits) - wanted) / numpy.maximum(1, numpy.abs(wanted))
        if apart.max() > tolerance:
            problems.append(f"logits differ by {apart.max():.3g}, more than {tolerance}")
        print(f"logits differ by at most {apart.max():.2g}", file=sys.stderr)
    if "continuation" in expected and expected["continuation"] != continuation:
        problems.append(f"greedy tokens {continuation}, expected {expected['continuation']}")
    return problems


def other_tokens(model, path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    problems = []
    for text in TEXTS:
        wanted = tokenizer.encode(text, add_special_tokens=False).ids
        found = list(model.tokenize(text, add_special=False, parse_special=False))
        if found != wanted:
            problems.append(f"{text!r} is {found}, expected {wanted}")
    return problems


if __name__ == "__main__":
    main()
