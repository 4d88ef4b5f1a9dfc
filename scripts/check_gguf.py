"""Opens an exported GGUF file with the `gguf` package and llama.cpp, and prints what it computes as JSON.

    python scripts/check_gguf.py model.gguf --tokens 5,17,33
    python scripts/check_gguf.py model.gguf --expect EXPECTED.json --tokenizer tokenizer.json

EXPECTED.json is that of check_export.py; llama.cpp gives logarithms of probabilities, so those of the last
logits are compared. With --tokenizer, what follows a few texts is compared with what follows the tokens that
the `tokenizers` library makes of them. The exit code is 1 where something differs, 77 without the packages.
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import gguf
    import numpy
    import xllamacpp
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
    server = serve(arguments.file)
    new = len(expected.get("continuation", range(8)))
    found, continuation = complete(server, tokens, new)
    problems += disagreements(expected, found, continuation, arguments.tolerance)
    if arguments.tokenizer:
        problems += other_tokens(server, arguments.tokenizer)
    report |= {"continuation": continuation}
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
    parser.add_argument("--tolerance", type=float, default=5e-3, help="of the logarithms (5e-3)")
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


def serve(file):
    """llama.cpp with keys and values in f32, as the model was trained."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 128, 1, 1
    parameters.warmup = False
    parameters.cache_type_k = parameters.cache_type_v = 0
    return xllamacpp.Server(parameters)


def complete(server, prompt, new):
    """The probabilities of the first new token, by token, as logarithms; and the greedy tokens."""
    request = {"prompt": prompt, "n_predict": new, "temperature": 0, "n_probs": 1 << 20}
    answer = server.handle_completions(request | {"cache_prompt": False, "ignore_eos": True})
    content = answer["choices"][0]["logprobs"]["content"]
    first = {token["id"]: token["logprob"] for token in content[0]["top_logprobs"]}
    return first, [token["id"] for token in content]


def disagreements(expected, found, continuation, tolerance):
    problems = []
    if "last_logits" in expected:
        logits = numpy.array(expected["last_logits"][-1], dtype=numpy.float64)
        wanted = logits - logits.max()
        wanted -= numpy.log(numpy.exp(wanted).sum())
        # Tokens of no probability to speak of are cut off.
        likely = {token: value for token, value in found.items() if value > -20}
        apart = max(abs(value - wanted[token]) for token, value in likely.items())
        print(f"{len(likely)} of {len(wanted)} differ by at most {apart:.2g}", file=sys.stderr)
        if apart > tolerance or len(likely) < len(wanted) // 2:
            problems.append(f"logarithms of probabilities differ by {apart:.3g}, more than {tolerance}")
    if "continuation" in expected and expected["continuation"] != continuation:
        problems.append(f"greedy tokens {continuation}, expected {expected['continuation']}")
    return problems


def other_tokens(server, path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    problems = []
    for text in TEXTS:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        [by_text, by_tokens] = [complete(server, prompt, 1)[0] for prompt in (text, tokens)]
        if max(abs(by_text[token] - by_tokens[token]) for token in by_text) > 1e-6:
            problems.append(f"{text!r} is not read as {tokens}")
    return problems


if __name__ == "__main__":
    main()
