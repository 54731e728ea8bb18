"""The order of windows: complete, new in every epoch, decided by the seed, and resumed bit for bit anywhere."""

import io

import numpy as np
import pytest
import torch

from subopt.profilers.target.batches import BatchStream
from subopt.profilers.target.load import load_target
from subopt.recipes.data import windows, with_files
from subopt.recipes.data.corpus import open_corpus
from subopt.recipes.data.tokenizer import ByteTokenizer
from subopt.recipes.data.windows import ShuffledWindows

from .conftest import DOCUMENTS, files_of

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(256, 8)
        self.head = nn.Linear(8, 256)

    def forward(self, ids):
        return self.head(self.embed(ids))
"""


@pytest.fixture(params=["texts", "json_lines", "zipped", "parquet_file", "data_set"])
def corpus(request, tmp_path):
    return open_corpus(files_of(request.getfixturevalue(request.param)), tmp_path)[0]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(windows, "BLOCK_TOKENS", 600)


def stream(corpus, seed=0, *, length=32, shuffle=True):
    return ShuffledWindows(corpus, ByteTokenizer(), length, seed, shuffle=shuffle)


def epoch_of(stream):
    """The windows of the epoch that comes next, and the state before the one after."""
    rows = [stream.take(1)[0]]
    epoch = stream.state_dict()["epoch"]
    while True:
        before = stream.state_dict()
        row = stream.take(1)[0]
        if stream.state_dict()["epoch"] != epoch:
            stream.load_state_dict(before)
            return np.array(rows)
        rows.append(row)


def test_resume_at_every_position_equals_going_on(corpus):
    whole = stream(corpus)
    count = 2 * len(epoch_of(stream(corpus))) + 5
    states, rows = [], []
    for _ in range(count):
        states.append(whole.state_dict())
        rows.append(whole.take(1)[0])
    rows = np.array(rows)
    assert states[-1]["epoch"] == 2
    for position in range(0, count, 1 if count < 300 else 7):
        resumed = stream(corpus, seed=99)
        resumed.load_state_dict(states[position])
        np.testing.assert_array_equal(
            resumed.take(4)[: count - position], rows[position : position + 4]
        )


def test_an_epoch_holds_every_token_once_and_the_next_is_in_another_order(corpus):
    both = stream(corpus)
    first, second = epoch_of(both), epoch_of(both)
    tokens = np.sort(np.frombuffer("\0".join([*DOCUMENTS, ""]).encode(), np.uint8))
    for rows in (first, second):
        left_over = len(tokens) - rows.size
        assert 0 <= left_over < 32
        counts = np.bincount(tokens, minlength=256) - np.bincount(rows.flatten(), minlength=256)
        assert counts.min() >= 0
        assert counts.sum() == left_over
    assert len(first) == len(second)
    assert (first != second).any()


def test_documents_stay_whole_and_separated(corpus):
    """Put back in the order they were cut in, the windows of an epoch are the documents, each once."""
    reader = windows.TokenReader(
        corpus, ByteTokenizer(), np.random.default_rng(3).permutation(len(corpus))
    )
    found = bytes(reader.take(10**9).astype(np.uint8).tobytes()).decode().split("\0")
    assert sorted(found) == sorted([*DOCUMENTS, ""])


def test_seeds_differ_and_repeat(corpus):
    rows = [stream(corpus, seed).take(20) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(rows[0], rows[2])
    assert (rows[0] != rows[1]).any()


def test_the_number_taken_at_once_does_not_matter(corpus):
    one, many = stream(corpus), stream(corpus)
    singly = np.concatenate([one.take(1) for _ in range(500)])
    np.testing.assert_array_equal(singly, np.concatenate([many.take(n) for n in (3, 200, 297)]))


def test_every_epoch_goes_through_the_files_in_an_order_of_its_own(tmp_path):
    for name in range(60):
        (tmp_path / f"{name:02}.txt").write_text(chr(33 + name) * 320)
    both = stream(open_corpus(files_of("*.txt"), tmp_path)[0])
    orders = []
    for _ in range(3):
        places = epoch_of(both)[:, 16]  # the file that each window is mostly of
        files = np.arange(33, 93)
        orders.append([np.flatnonzero(places == file).mean() for file in files])
        # 3 sigma of 60 files in random order; the seed is fixed
        assert abs(np.corrcoef(orders[-1], files)[0, 1]) < 0.4
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.4
    assert abs(np.corrcoef(orders[1], orders[2])[0, 1]) < 0.4


def test_without_shuffling_epochs_repeat(corpus):
    both = stream(corpus, shuffle=False)
    np.testing.assert_array_equal(epoch_of(both), epoch_of(both))


def test_a_batch_mixes_distant_places(tmp_path, monkeypatch):
    """With a corpus of many shards a batch of 8 comes from nearly as many of them."""
    monkeypatch.setattr(windows, "BLOCK_TOKENS", 2**18)
    for name in range(60):
        (tmp_path / f"{name:02}.txt").write_text(chr(33 + name) * 2**15)
    batches = stream(open_corpus(files_of("*.txt"), tmp_path)[0], length=128)
    places = [len(set(batches.take(8)[:, 64].tolist())) for _ in range(200)]
    assert np.mean(places) > 5  # of 8 in a block; 8 drawn at random hit 5.25 of them


@pytest.fixture
def target(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return load_target("model.py", base=tmp_path)


def test_a_stream_of_batches_resumes_from_a_checkpoint(tmp_path, target, texts):
    loaded = with_files(target, files_of(texts), tmp_path)
    one = BatchStream(loaded.data, 4, seed=7)
    for _ in range(45):
        next(one)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other = BatchStream(loaded.data, 4, seed=7)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(60):
        assert torch.equal(next(one)["input_ids"], next(other)["input_ids"])
    again = BatchStream(loaded.data, 4, seed=8)
    assert not torch.equal(
        next(BatchStream(loaded.data, 4, seed=7))["labels"], next(again)["labels"]
    )


def test_the_state_is_small(tmp_path, target, json_lines):
    batches = BatchStream(with_files(target, files_of(json_lines), tmp_path).data, 4, seed=7)
    next(batches)
    buffer = io.BytesIO()
    torch.save(batches.state_dict()["iterable"], buffer)
    assert buffer.tell() < 3000
