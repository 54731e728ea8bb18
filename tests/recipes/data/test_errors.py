"""What can be wrong with data files is said in a line or two, with the file and the line."""

import json
import sys

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from subopt.errors import FileFormatError, PreflightError, SuboptError, UsageError
from subopt.recipes.data import lines
from subopt.recipes.data.digest import file_digest

from .conftest import files_of, open_files


def complaint(files, base) -> SuboptError:
    with pytest.raises(SuboptError) as caught:
        next(open_files(files, base, 2, split="train"))
    assert caught.value.exit_status == 2
    assert "\n" not in caught.value.message + (caught.value.hint or "")
    return caught.value


def in_lines(tmp_path, *rows, **options):
    """What is said of a JSON Lines file of good lines and these."""
    good = [json.dumps({"text": f"good {number}" * 3}) for number in range(8)]
    content = [row if isinstance(row, bytes) else row.encode() for row in (*good, *rows)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(content) + b"\n")
    return complaint(files_of("a.jsonl", length=2000, **options), tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": 3, "content": "x"}', "no field 'text'; it has: id, content"),
        ("{}", "no field 'text'; it has: none"),
        ('{"text": "x"', "not JSON: Expecting ',' delimiter"),
        ("[" * 100_000, "not JSON: RecursionError"),
        ('["x"]', "not a JSON object"),
        ('{"text": 3}', "'text' is of type int and not text"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line(tmp_path, row, message):
    error = in_lines(tmp_path, row)
    assert isinstance(error, FileFormatError)
    assert error.message == f"{tmp_path}/a.jsonl, line 9: {message}"


def test_the_line_is_counted_from_the_beginning_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "PIECE_BYTES", 64)
    error = in_lines(tmp_path, "", '{"text": "fine"}', "no")
    assert error.message.startswith(f"{tmp_path}/a.jsonl, line 11: not JSON")


def test_a_line_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_MOST_LINE_BYTES", 2**20)
    error = in_lines(tmp_path, json.dumps({"text": "x" * 2**20}))
    assert "line 9: longer than 1 MiB" in error.message


def test_text_that_is_not_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\nthr\xe9e\n")
    error = complaint(files_of("a.txt"), tmp_path)
    assert error.message == f"{tmp_path}/a.txt, line 3: not UTF-8"


def test_half_a_pair_of_escapes_is_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "é\\ud83d"}\n')
    batch = next(open_files(files_of("a.jsonl", length=6), tmp_path, 1, split="train"))
    assert bytes(batch["input_ids"][0].tolist()) == "é\ufffd\0".encode()


@pytest.mark.parametrize(
    "entry", ["texts/*.txt", "missing.txt", "no/folder", "", "a\0b", "x" * 5000]
)
def test_what_is_not_there(tmp_path, entry):
    error = complaint(files_of(entry), tmp_path)
    assert isinstance(error, UsageError)
    assert "no file" in error.message


def test_folders_and_devices_are_no_files(tmp_path):
    (tmp_path / "texts").mkdir()
    error = complaint(files_of("texts"), tmp_path)
    assert (error.hint or "").endswith("texts/*.txt")
    assert "not a regular file" in complaint(files_of("/dev/zero"), tmp_path).message


def test_nothing_to_train_on(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert "there is no text in" in complaint(files_of("a.txt"), tmp_path).message
    (tmp_path / "a.txt").write_text("short")
    error = complaint(files_of("a.txt"), tmp_path)
    assert isinstance(error, PreflightError)
    assert error.message == "the training files hold 6 tokens, fewer than one window of 32"
    assert (
        "is in data.files.eval too"
        in complaint(files_of("a.txt", eval=["*.txt"]), tmp_path).message
    )
    assert (
        "leaves nothing to train on" in complaint(files_of("a.txt", held_out=0.5), tmp_path).message
    )


def test_too_little_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("long enough " * 9)
    (tmp_path / "b.txt").write_text("short")
    with pytest.raises(PreflightError, match="the held-out files hold 6 tokens"):
        list(open_files(files_of("a.txt", eval=["b.txt"]), tmp_path, 2, split="eval"))
    with pytest.raises(PreflightError, match="no held-out data"):
        list(open_files(files_of("a.txt"), tmp_path, 2, split="eval"))


def test_parquet(tmp_path):
    parquet.write_table(pa.table({"id": [1, 2], "body": ["x", "y"]}), tmp_path / "a.parquet")
    error = complaint(files_of("a.parquet"), tmp_path)
    assert error.message == f"{tmp_path}/a.parquet: no field 'text'; it has: id, body"
    error = complaint(files_of("a.parquet", field="id"), tmp_path)
    assert "'id' is a column of int64 and not of text" in error.message
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but not really")
    assert "cannot be read as Parquet" in complaint(files_of("b.parquet"), tmp_path).message


def test_data_sets(tmp_path, data_set):
    error = complaint(files_of(f"{data_set}:test"), tmp_path)
    assert error.message == f"{tmp_path}/set has no split test; it has: train, validation"
    assert "no field 'body'" in complaint(files_of(data_set, field="body"), tmp_path).message
    assert "column of int64" in complaint(files_of(data_set, field="id"), tmp_path).message
    datasets.Dataset.from_dict({"text": ["x"]}).save_to_disk(str(tmp_path / "one"))
    assert "has no splits" in complaint(files_of("one:train"), tmp_path).message
    (tmp_path / "one" / "state.json").write_text("{}")
    assert "cannot be read as a data set" in complaint(files_of("one"), tmp_path).message


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path, monkeypatch):
    asked = []

    def refuse(*_, **__):
        asked.append(1)
        raise ConnectionError("no network here")

    monkeypatch.setattr("huggingface_hub.get_session", refuse)
    (tmp_path / "a.txt").write_text("x" * 100)
    error = complaint(files_of("hf:org/no-such-set:train"), tmp_path)
    assert error.message.startswith("the data set org/no-such-set:train cannot be loaded")
    error = complaint(files_of("a.txt", tokenizer="hf:org/no-such-one"), tmp_path)
    assert error.message.startswith("no tokenizer org/no-such-one in the Hugging Face cache")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("hf:org/name", ("org/name", None, None)),
        ("hf:org/name:train", ("org/name", None, "train")),
        ("hf:org/name:small:test", ("org/name", "small", "test")),
        ("hf:org/name:train[:5]+test[1:]", ("org/name", None, "train[:5]+test[1:]")),
        ("hf:org/name:small:test[5%:]", ("org/name", "small", "test[5%:]")),
    ],
)
def test_what_the_hub_is_asked_for(tmp_path, monkeypatch, name, asked):
    calls = []

    def load_dataset(name, config, *, split):
        calls.append((name, config, split))
        rows = datasets.Dataset.from_dict({"text": ["words " * 20]})
        return rows if split else datasets.DatasetDict({"train": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("subopt.recipes.data.hub._answers", lambda _: True)
    batch = next(open_files(files_of(name), tmp_path, 2, split="train"))
    assert bytes(batch["labels"][0].tolist()).count(b"words") >= 4
    assert calls == [asked]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set that loads as one of the hub does, slices included: two splits, 200 rows to train on."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for split, count in (("train", 200), ("test", 40)):
        rows = [json.dumps({"text": f"{split} {number} " * 9}) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("subopt.recipes.data.hub._answers", lambda _: True)
    return f"hf:{folder}"


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        (["train"], ["train[95%:]"]),
        (["train[:60%]"], ["train[50%:]"]),
        (["train[:10]+train[150:]"], ["train[100:160]"]),
        (["test", "train"], ["train[95%:]"]),
        (["train[:50%]", "train[25%:]"], []),
    ],
)
def test_rows_that_would_be_trained_on_and_held_out_are_refused(tmp_path, hub, train, held_out):
    files = files_of(*(f"{hub}:{split}" for split in train), length=16).model_copy(
        update={
            "eval": [f"{hub}:{split}" for split in held_out],
            "held_out": 0.0 if held_out else 0.2,
        }
    )
    error = complaint(files, tmp_path)
    assert isinstance(error, UsageError)
    assert "they would be trained on and held out" in error.message
    assert "NAME:train[:95%]" in error.hint


@pytest.mark.parametrize(
    ("train", "held_out"),
    [("train[:95%]", "train[95%:]"), ("train", "test"), ("train[:10]+train[30:]", "train[10:30]")],
)
def test_slices_that_do_not_overlap_are_taken(tmp_path, hub, train, held_out):
    files = files_of(f"{hub}:{train}", length=16).model_copy(update={"eval": [f"{hub}:{held_out}"]})
    assert next(open_files(files, tmp_path, 2, split="train"))["labels"].shape == (2, 16)


@pytest.mark.parametrize(
    ("fixture", "package", "extra"),
    [
        ("parquet_file", "pyarrow", "export"),
        ("zstd", "pyarrow", "export"),
        ("data_set", "datasets", "hf"),
        ("tokenizer_file", "tokenizers", "hf"),
    ],
)
def test_missing_packages(tmp_path, request, monkeypatch, fixture, package, extra):
    file = request.getfixturevalue(fixture)
    monkeypatch.setitem(sys.modules, package, None)
    if fixture == "tokenizer_file":
        (tmp_path / "a.txt").write_text("x" * 100)
        error = complaint(files_of("a.txt", tokenizer=file), tmp_path)
    else:
        error = complaint(files_of(file), tmp_path)
    assert error.hint == f"pip install 'subopt[{extra}]'"


def test_damaged_compression(tmp_path, zipped):
    path = tmp_path / zipped
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be read" in complaint(files_of(zipped, length=10_000), tmp_path).message
    path.write_bytes(b"not gzip")
    assert "cannot be read" in complaint(files_of(zipped), tmp_path).message


@pytest.fixture
def saved(tmp_path, texts):
    """Files, and the state of their batches after three."""
    files = files_of(texts)
    batches = open_files(files, tmp_path, 2, split="train")
    for _ in range(3):
        next(batches)
    return files, batches.state_dict()


def refusal(files, base, state) -> str:
    with pytest.raises(FileFormatError) as caught:
        open_files(files, base, 2, split="train").load_state_dict(state)
    assert "--force" in caught.value.hint
    return caught.value.message


def test_a_file_that_changed_since_the_checkpoint(tmp_path, saved):
    files, state = saved
    open_files(files, tmp_path, 2, split="train").load_state_dict(state)
    path = tmp_path / "texts" / "0007.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("7", "8"), encoding="utf-8")
    assert refusal(files, tmp_path, state) == f"{path} changed since the checkpoint was written"
    path.unlink()
    assert "149 training files, and there were 150" in refusal(files, tmp_path, state)


def test_another_way_of_reading_than_at_the_checkpoint(tmp_path, saved, tokenizer_file):
    files, state = saved
    longer = files.model_copy(update={"sequence_length": 64})
    assert "read with sequence_length 64, and were with 32" in refusal(longer, tmp_path, state)
    other = files.model_copy(update={"tokenizer": tokenizer_file})
    assert "read with tokenizer" in refusal(other, tmp_path, state)
    assert "other training data" in refusal(files, tmp_path, {"seed": 3, "position": 4})


@pytest.mark.parametrize(
    "change",
    [
        {"window": 10**6},
        {"window": -1},
        {"shard": -3},
        {"shard": 10**6, "window": 1},
        {"document": 10**30},
        {"epoch": "2"},
        {"seed": 0.5},
        {"token": None},
    ],
)
def test_a_place_that_is_not_there(tmp_path, saved, change):
    files, state = saved
    batches = open_files(files, tmp_path, 2, split="train")
    with pytest.raises(FileFormatError, match="place is not in the training files"):
        batches.load_state_dict({**state, **change})


@pytest.mark.parametrize("change", [{"files": 3}, {"reading": "x"}, {"files": None}])
def test_a_state_of_something_else(tmp_path, saved, change):
    files, state = saved
    assert "other training data" in refusal(files, tmp_path, {**state, **change})


def test_a_digest_sees_beginning_middle_end_and_length(tmp_path):
    path = tmp_path / "a.txt"
    content = b"x" * 2**20
    numbers = set()
    for changed in (
        content,
        b"y" + content[1:],
        content[: 2**19] + b"y" * 2**17 + content[2**19 + 2**17 :],
        content[:-1] + b"y",
        content + b"x",
    ):
        path.write_bytes(changed)
        numbers.add(file_digest(path))
    assert len(numbers) == 5
    assert min(numbers) >= 0
    assert max(numbers) < 2**63
