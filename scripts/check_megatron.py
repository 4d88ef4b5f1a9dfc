#!/usr/bin/env python3
"""Holds our data preparation against the programs it must agree with.

Writes the same documents as gzip and zstd JSON lines and Parquet (pyarrow), prepares them, and checks that
Megatron's own reader finds the tokens that `transformers` makes of them with the tokenizer we trained;
then that shards which Megatron's own builder wrote are used in place. What is not installed is skipped
with a line.

    python scripts/check_megatron.py [COMMAND...]

COMMAND prepares data; by default `cargo run -q -p lingot-data --example prepare --`.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def optional(name):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        print(f"skipped: what needs {name} ({error})")
        return None


def documents():
    words = "the river ran under a bridge of stone née and ☃ slept 1234 it's\n\n x = [3]; <b>".split(" ")
    for number in range(400):
        length = 40 + number % 23
        yield f"Document {number}: " + " ".join(
            words[(i * i + 7 * number) % len(words)] for i in range(length)
        )


def prepare(command, folder, corpora, **environment):
    result = subprocess.run(
        [*command, str(folder), "500", "32", *map(str, corpora)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(result.stdout)


def corpora(folder):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents()).encode()
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(lines))
    made = [folder / "packed.jsonl.gz"]
    if (arrow := optional("pyarrow")) is not None:
        parquet = optional("pyarrow.parquet")
        (folder / "packed.jsonl.zst").write_bytes(arrow.compress(lines, codec="zstd", asbytes=True))
        made.append(folder / "packed.jsonl.zst")
        table = arrow.table({"id": list(range(400)), "text": list(documents())})
        for codec in ["none", "snappy", "gzip", "zstd"]:
            for dictionary in [True, False]:
                path = folder / f"table-{codec}-{dictionary}.parquet"
                parquet.write_table(
                    table,
                    path,
                    compression=codec,
                    use_dictionary=dictionary,
                    row_group_size=150,
                    data_page_version="2.0" if dictionary else "1.0",
                )
                made.append(path)
        path = folder / "table-delta.parquet"
        encoding = {"id": "PLAIN", "text": "DELTA_BYTE_ARRAY"}
        parquet.write_table(table, path, use_dictionary=False, column_encoding=encoding)
        made.append(path)
    return made


def read_with_megatron(prefix):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    shards = IndexedDataset(str(prefix), mmap=True)
    assert len(shards.document_indices) == len(shards) + 1, "one sequence per document"
    assert [shards.sequence_lengths[i] for i in range(len(shards))] == [
        len(shards[i]) for i in range(len(shards))
    ]
    return [shards[i].tolist() for i in range(len(shards))]


def check_in_place(folder, command, documents):
    """Shards of Megatron's builder, two sequences to a document, in each integer type it knows."""
    import numpy
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    for name, kind in {"u16": numpy.uint16, "i32": numpy.int32, "i64": numpy.int64}.items():
        prefix = folder / f"theirs-{name}"
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=kind)
        for ids in documents:
            builder.add_document(torch.tensor(ids), [len(ids) // 3, len(ids) - len(ids) // 3])
        builder.finalize(f"{prefix}.idx")
        data = folder / f"data-{name}"
        report = prepare(command, data, [prefix], TOKENIZER=str(folder / "data" / "tokenizer.json"))
        corpus = report["prepared"]["corpora"][0]
        assert (corpus["documents"], corpus["tokens"]) == (len(documents), sum(map(len, documents)))
        assert not list(data.glob("*.bin")), "used in place"
        rows = [report["tokens"][at : at + 32] for at in range(0, 128, 32)]
        stream = sum(documents, [])
        assert any(
            stream[at : at + 32] == row for row in rows for at in range(len(stream))
        ), "rows of the shards"
    print("ok: shards of Megatron's builder are used in place")


def check(folder, command):
    transformers = optional("transformers")
    megatron = optional("megatron.core.datasets.indexed_dataset")
    made = corpora(folder)
    data = folder / "data"
    report = prepare(command, data, made)
    assert [corpus["documents"] for corpus in report["prepared"]["corpora"]] == [400] * len(made)
    print(f"ok: {len(made)} sources of 400 documents each were read")
    if transformers is None or megatron is None:
        return
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(data / "tokenizer.json"))
    loaded = transformers.AutoTokenizer.from_pretrained(str(data))
    assert loaded.eos_token == "<|endoftext|>" and len(tokenizer) <= 500
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in documents()]
    assert expected == [loaded.encode(text, add_special_tokens=False) for text in documents()]
    assert [tokenizer.decode(ids) for ids in expected] == list(documents())
    tokens = 0
    for index, source in enumerate(made):
        stem = f"{index}-" + "".join(c if c.isalnum() or c in "-_" else "-" for c in source.stem)
        sides = [read_with_megatron(data / f"{stem}-{side}") for side in ("training", "validation")]
        assert all(ids[-1] == loaded.eos_token_id for side in sides for ids in side)
        assert sorted(ids[:-1] for side in sides for ids in side) == sorted(expected), source
        tokens += sum(len(ids) for side in sides for ids in side)
    assert tokens == report["prepared"]["tokens"]
    print(f"ok: Megatron's reader finds the {tokens} tokens that transformers makes of them")
    check_in_place(folder, command, [ids + [loaded.eos_token_id] for ids in expected])


def main():
    command = sys.argv[1:] or ["cargo", "run", "-q", "-p", "lingot-data", "--example", "prepare", "--"]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), command)


main()
