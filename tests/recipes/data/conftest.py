"""The same small documents in every format, a tokenizer for them, and the slow and obvious way to cut windows."""

import gzip
import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from subopt.recipes.data.batches import OpenFiles
from subopt.recipes.schema import Files

DOCUMENTS = [
    f"{'day ' * (number % 7)}number {number}: żółw, 東京\nsecond line {number * number}"
    for number in range(150)
]


@pytest.fixture
def texts(tmp_path):
    """Every document in a file of its own, in an order that sorting the names keeps."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8", newline="")
    return "texts/*.txt"


@pytest.fixture
def json_lines(tmp_path):
    rows = [json.dumps({"id": number, "text": text}) for number, text in enumerate(DOCUMENTS)]
    rows.insert(40, "")
    rows.insert(70, '{"text": null}')
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    return "data.jsonl"


@pytest.fixture
def zipped(tmp_path, json_lines):
    with gzip.open(tmp_path / "data.jsonl.gz", "wb") as file:
        file.write((tmp_path / json_lines).read_bytes())
    return "data.jsonl.gz"


@pytest.fixture
def zstd(tmp_path, json_lines):
    with pa.CompressedOutputStream(str(tmp_path / "data.jsonl.zst"), "zstd") as file:
        file.write((tmp_path / json_lines).read_bytes())
    return "data.jsonl.zst"


@pytest.fixture
def parquet_file(tmp_path):
    rows = [*DOCUMENTS[:40], None, "", *DOCUMENTS[40:]]
    table = pa.table({"id": list(range(len(rows))), "text": rows})
    parquet.write_table(table, tmp_path / "data.parquet", row_group_size=31)
    return "data.parquet"


@pytest.fixture
def data_set(tmp_path):
    rows = datasets.Dataset.from_dict({"id": list(range(len(DOCUMENTS))), "text": DOCUMENTS})
    held_out = datasets.Dataset.from_dict({"text": ["held out " * 40]})
    both = datasets.DatasetDict({"train": rows, "validation": held_out})
    both.save_to_disk(str(tmp_path / "set"))
    return "set"


@pytest.fixture(scope="session")
def trained_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(DOCUMENTS, trainer)
    return tokenizer


@pytest.fixture
def tokenizer_file(tmp_path, trained_tokenizer):
    trained_tokenizer.enable_truncation(5)  # as some published files have it
    trained_tokenizer.save(str(tmp_path / "tokenizer.json"))
    trained_tokenizer.no_truncation()
    return "tokenizer.json"


def files_of(*train, length=32, **options):
    return Files(train=list(train), sequence_length=length, **options)


def open_files(files, base, batch_size, *, split):
    """Endless batches to train on, or the held-out ones once."""
    opened = OpenFiles(files, base)
    return opened.batches(batch_size) if split == "train" else opened.eval_batches(batch_size)


def reference_windows(documents, length, encode=lambda text: list(text.encode()), end=0):
    """All tokens in one list, cut."""
    tokens = [token for text in documents for token in [*encode(text), end]]
    count = len(tokens) // length
    return np.array(tokens[: count * length]).reshape(count, length)


def windows_of(files, base, count, batch_size=1):
    """The first training windows, as rows."""
    batches = open_files(files, base, batch_size, split="train")
    rows = [next(batches)["input_ids"].numpy() for _ in range(-(-count // batch_size))]
    return np.concatenate(rows)[:count]
