"""The endless batch stream: restarts, repeats under a seed, and resumes."""

from __future__ import annotations

import io
from collections import namedtuple

import pytest
import torch

from subopt.errors import PreflightError, UserCodeError
from subopt.profilers.target.batches import BatchStream, move_to, tokens_in
from subopt.profilers.target.load import load_target

HEAD = (
    "import random\nimport numpy as np\nimport torch\nfrom torch import nn\n"
    "def build_model():\n    return nn.Linear(2, 2)\n"
)
# Each data source draws from a generator of its own kind.
ENDLESS = HEAD + (
    "def batches(batch_size):\n"
    "    while True:\n"
    "        yield torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])\n"
)
FINITE = HEAD + (
    "def batches(batch_size):\n    for i in range(3):\n        yield torch.tensor([i, random.randrange(10**9)])\n"
)
LOADER = HEAD + (
    "def batches(batch_size):\n"
    "    return torch.utils.data.DataLoader(torch.arange(7), batch_size, shuffle=True, drop_last=True)\n"
)
STATEFUL = HEAD + (
    "class Counter:\n"
    "    def __init__(self):\n        self.next = 0\n        self.made = 0\n"
    "    def __iter__(self):\n        return self\n"
    "    def __next__(self):\n"
    "        self.next += 1\n        self.made += 1\n"
    "        return torch.tensor([self.next, self.made, random.randrange(10**9)])\n"
    "    def state_dict(self):\n        return {'next': self.next}\n"
    "    def load_state_dict(self, state):\n        self.next = state['next']\n"
    "def batches(batch_size):\n    return Counter()\n"
)
SOURCES = {"endless": ENDLESS, "finite": FINITE, "loader": LOADER}


@pytest.fixture
def stream(tmp_path):
    """Return a function that makes a stream over a source."""

    def make(source, batch_size=2, *, seed=0):
        (tmp_path / "model.py").write_text(source)
        target = load_target("model.py", base=tmp_path)
        return BatchStream(target.data, batch_size, seed=seed)

    return make


def take(stream, count):
    return torch.stack([next(stream).double() for _ in range(count)])


@pytest.mark.parametrize("source", SOURCES)
def test_the_seed_alone_decides_the_order(stream, source):
    first = take(stream(SOURCES[source]), 8)
    torch.rand(5)  # what a model draws in between must not matter
    again = stream(SOURCES[source])
    drawn = []
    for _ in range(8):
        drawn.append(next(again).double())
        torch.rand(3)
    assert torch.equal(torch.stack(drawn), first)
    assert not torch.equal(take(stream(SOURCES[source], seed=1), 8), first)


def test_the_stream_leaves_the_global_generators_alone(stream):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    take(stream(ENDLESS), 4)
    assert torch.equal(torch.rand(3), expected)


def test_a_finite_generator_starts_again_with_fresh_draws(stream):
    batches = stream(FINITE)
    rows = take(batches, 7)
    assert rows[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert rows[0, 1] != rows[3, 1]
    assert batches.position == 7


def test_a_loader_is_shuffled_anew_in_every_pass(stream):
    rows = take(stream(LOADER), 9)
    passes = [rows[k : k + 3] for k in (0, 3, 6)]
    assert all(len(set(rows.flatten().tolist())) == 6 for rows in passes)
    assert not torch.equal(passes[0], passes[1])


def test_iter_is_the_stream_itself(stream):
    batches = stream(FINITE)
    assert iter(batches) is batches


@pytest.mark.parametrize("source", [*SOURCES.values(), STATEFUL], ids=[*SOURCES, "stateful"])
@pytest.mark.parametrize("position", [0, 2, 3, 5])
def test_a_saved_stream_continues_where_it_stopped(stream, source, position):
    first = stream(source)
    for _ in range(position):
        next(first)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    expected = take(first, 6)
    second = stream(source)
    next(second)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.position == position
    continued = take(second, 6)
    if source is STATEFUL:  # its own state was used: nothing was made only to be skipped
        assert continued[:, 1].tolist() == [1, 2, 3, 4, 5, 6]
        continued[:, 1] = expected[:, 1]
    assert torch.equal(continued, expected)
    assert second.position == position + 6


@pytest.mark.parametrize("body", ["return []", "return iter(())", "yield from ()"])
def test_no_batches_at_all_is_an_error(stream, body):
    with pytest.raises(PreflightError, match=r"batches\(2\) gives no batches"):
        next(stream(HEAD + f"def batches(batch_size):\n    {body}\n"))


def test_an_error_while_iterating_is_the_users(stream):
    batches = stream(
        HEAD + "def batches(batch_size):\n    yield torch.ones(1)\n    raise OSError('gone')\n"
    )
    next(batches)
    with pytest.raises(UserCodeError, match="iterating batches failed: OSError: gone") as caught:
        next(batches)
    assert "model.py:9 in batches" in caught.value.message


@pytest.mark.parametrize("state", ["object()", "(lambda: 1)", "np.ones(2)"])
def test_a_state_that_no_checkpoint_can_hold_is_refused_when_saved(stream, state):
    batches = stream(STATEFUL.replace("{'next': self.next}", state))
    next(batches)
    with pytest.raises(PreflightError, match=r"state_dict\(\) of batches holds objects"):
        batches.state_dict()


def test_an_error_in_a_loaders_worker_keeps_its_message(stream):
    source = HEAD + (
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): raise KeyError('no such picture')\n"
        "def batches(batch_size):\n"
        "    return torch.utils.data.DataLoader(Data(), batch_size, num_workers=1)\n"
    )
    with pytest.raises(UserCodeError, match="KeyError: 'no such picture'"):
        next(stream(source))


Pair = namedtuple("Pair", "x y")


def test_move_to_keeps_containers_and_other_values():
    ones = torch.ones(2)
    batch = {"a": [ones, "text"], "b": (ones, 3), "c": Pair(ones, None)}
    moved = move_to(batch, torch.device("meta"))
    assert (
        moved["a"][0].device.type == moved["b"][0].device.type == moved["c"].x.device.type == "meta"
    )
    assert moved["a"][1] == "text"
    assert moved["b"][1] == 3
    assert type(moved["c"]) is Pair
    assert ones.device.type == "cpu"


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        (torch.zeros(2, 5, dtype=torch.int64), 10),
        (
            {
                "mask": torch.ones(2, 9, dtype=torch.bool),
                "ids": torch.zeros(2, 4, dtype=torch.int32),
            },
            8,
        ),
        ((torch.ones(3, 7), torch.zeros(3, dtype=torch.int64)), 3),
        (torch.ones(6, 7), 6),
        ([torch.tensor(1.0)], 1),
    ],
)
def test_tokens_in(batch, tokens):
    assert tokens_in(batch) == tokens


def test_tokens_in_a_batch_without_tensors():
    with pytest.raises(PreflightError, match="no tensor"):
        tokens_in({"a": "text"})
