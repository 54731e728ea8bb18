"""A file is never held as a whole: what is read and kept does not grow with it."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet

from .conftest import files_of, open_files

TEXT = "some words of a text that goes on and on " * 100 + "\n"
COPIES = 6_000  # 25 MB


def text(path):
    path.write_text(TEXT * COPIES)


def one_line(path):
    path.write_text(TEXT.replace("\n", " ") * COPIES)


def json_lines(path):
    path.write_text((json.dumps({"text": TEXT}) + "\n") * COPIES)


def zipped(path):
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write((json.dumps({"text": TEXT}) + "\n") * COPIES)


@pytest.mark.parametrize(
    ("write", "name"),
    [(text, "a.txt"), (one_line, "a.txt"), (json_lines, "a.jsonl"), (zipped, "a.jsonl.gz")],
)
def test_a_long_file(tmp_path, write, name):
    write(tmp_path / name)
    batches = open_files(files_of(name, length=256), tmp_path, 8, split="train")
    tracemalloc.start()
    try:
        for _ in range(300):  # more than a block
            next(batches)
        batches.state_dict()
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 6 * 2**20  # two blocks of 1 MiB, one in the making, and what is being read


def test_a_long_row_group(tmp_path):
    words = [f"{number} {TEXT}" for number in range(COPIES)]
    parquet.write_table(
        pa.table({"text": words}), tmp_path / "a.parquet", use_dictionary=False, compression="none"
    )
    files = files_of("a.parquet", length=256)
    batches = open_files(files, tmp_path, 8, split="train")
    pool = pa.default_memory_pool()
    before, largest = pa.total_allocated_bytes(), 0
    for _ in range(300):
        next(batches)
        largest = max(largest, pool.bytes_allocated() - before)
    assert largest < 8 * 2**20
