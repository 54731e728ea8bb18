"""The examples keep the contract of a model file, and are what their docstrings say."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("llama_bytes", "autoencoder_digits", "convnet_digits")
DIGITS = NAMES[1:]


def load(name: str) -> ModuleType:
    """Import one example afresh, without leaving it in sys.modules."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def examples() -> dict[str, ModuleType]:
    return {name: load(name) for name in NAMES}


@pytest.fixture(params=NAMES)
def example(request: pytest.FixtureRequest, examples: dict[str, ModuleType]) -> ModuleType:
    return examples[request.param]


@pytest.fixture
def llama(examples: dict[str, ModuleType]) -> ModuleType:
    return examples["llama_bytes"]


def seeded_batches(example: ModuleType, batch_size: int, seed: int) -> Any:
    torch.manual_seed(seed)
    return example.batches(batch_size)


def take(iterator: Any, count: int) -> list[Any]:
    return [next(iterator) for _ in range(count)]


def same(left: Any, right: Any) -> bool:
    pairs = zip(tree_leaves(left), tree_leaves(right), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_imports_nothing_of_ours(name):
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= set(sys.stdlib_module_names) | {"numpy", "torch", "sklearn"}


def test_the_first_loss_is_that_of_a_guess(example):
    torch.manual_seed(0)
    value = example.loss(example.build_model(), next(example.batches(4)))
    assert value.shape == ()
    assert value.requires_grad
    # Fresh weights know nothing: ln 256 for a byte, ln 2 for a pixel, ln 10 for a digit.
    guess = {"llama_bytes": 256, "autoencoder_digits": 2, "convnet_digits": 10}
    name = example.__name__.removeprefix("example_")
    assert value.item() == pytest.approx(math.log(guess[name]), rel=0.25)


def test_batches_follow_the_seed(example):
    first = take(seeded_batches(example, 3, seed=0), 3)
    again = take(seeded_batches(example, 3, seed=0), 3)
    other = take(seeded_batches(example, 3, seed=1), 3)
    assert same(first, again)
    assert not same(first, other)
    assert not same(first[0], first[1])
    assert all(leaf.shape[0] == 3 for leaf in tree_leaves(first))


def test_batches_do_not_follow_what_training_draws(example):
    batches = seeded_batches(example, 2, seed=0)
    expected = take(seeded_batches(example, 2, seed=0), 3)
    mixed = []
    for _ in range(3):
        torch.rand(7)  # dropout, say
        mixed.append(next(batches))
    assert same(mixed, expected)


def test_batches_continue_from_a_saved_state(example, tmp_path):
    batches = seeded_batches(example, 2, seed=0)
    take(batches, 2)
    torch.save(batches.state_dict(), tmp_path / "state.pt")
    expected = take(batches, 2)
    resumed = seeded_batches(example, 2, seed=99)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(take(resumed, 2), expected)


def test_held_out_batches_are_finite_and_fixed(example):
    torch.manual_seed(0)
    first = list(example.eval_batches(100))
    torch.manual_seed(1)
    again = list(example.eval_batches(100))
    assert len(first) > 1
    assert same(first, again)


def test_writing_into_a_held_out_batch_does_not_reach_the_next_call(example):
    expected = tree_map(torch.clone, next(example.eval_batches(4)))
    for leaf in tree_leaves(next(example.eval_batches(4))):
        leaf.zero_()
    assert same(next(example.eval_batches(4)), expected)


def test_the_loss_falls(example):
    torch.manual_seed(0)
    model = example.build_model()
    batch = next(example.batches(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        value = example.loss(model, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]


def test_every_parameter_learns(example):
    model = example.build_model()
    example.loss(model, next(example.batches(2))).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_it_runs_on_fake_tensors(example):
    batch = next(example.batches(2))
    with FakeTensorMode() as mode:
        model = example.build_model()
        value = example.loss(model, tree_map(mode.from_tensor, batch))
        value.backward()
    assert value.shape == ()
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_it_runs_in_bfloat16(example):
    model = example.build_model().to(torch.bfloat16)
    batch = next(example.batches(2))
    value = example.loss(
        model, tree_map(lambda t: t.bfloat16() if t.is_floating_point() else t, batch)
    )
    value.backward()
    assert torch.isfinite(value)
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters())


# The byte LLaMA


def test_no_file_is_both_trained_on_and_held_out(llama):
    training, held_out = llama.corpus_files()
    assert set(training).isdisjoint(held_out)
    assert len(held_out) == pytest.approx(len(training) / 9, abs=1)
    assert not any("site-packages" in path.parts for path in training + held_out)
    assert len(llama.corpus(True)) == sum(path.stat().st_size for path in held_out)


def test_windows_are_pieces_of_their_own_side(llama):
    for batch, held_out in ((next(llama.batches(2)), False), (next(llama.eval_batches(2)), True)):
        assert batch.shape == (2, llama.CONTEXT + 1)
        assert batch.dtype == torch.int64
        text = llama.corpus(held_out).tobytes()
        assert all(bytes(window.tolist()) in text for window in batch)


def test_the_last_held_out_window_ends_with_the_corpus(llama):
    batches = list(llama.eval_batches(100))
    assert [len(batch) for batch in batches] == [100, 100, 56]
    ending = llama.corpus(True)[-llama.CONTEXT - 1 :]
    assert np.array_equal(batches[-1][-1].numpy(), ending)


def test_a_python_without_source_is_a_clear_error(tmp_path, monkeypatch):
    fresh = load("llama_bytes")
    monkeypatch.setattr(fresh.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing to train on"):
        fresh.batches(2)


def test_a_position_sees_only_what_came_before(llama):
    torch.manual_seed(0)
    model = llama.build_model()
    tokens = next(llama.batches(1))[:, :32]
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_rotary_scores_depend_on_distance_alone(llama):
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    cos, sin = llama.rotary_table(12, 16, like=query)
    queries = llama.rotate(query.expand(1, 1, 12, 16), cos, sin)[0, 0]
    keys = llama.rotate(key.expand(1, 1, 12, 16), cos, sin)[0, 0]
    scores = queries @ keys.T
    # float32 angles of up to 11 radians: 1e-6 each.
    torch.testing.assert_close(scores[5, 3], scores[11, 9], rtol=0, atol=1e-5)
    torch.testing.assert_close(queries.norm(dim=1), query.norm().expand(12), rtol=0, atol=1e-5)
    assert (scores[5, 3] - scores[5, 4]).abs() > 1e-3


# Sizes and parameter counts as the GaLore and AdaDiag papers name them.
@pytest.mark.parametrize(
    ("size", "layers", "millions"),
    [("60m", 8, 58.07), ("130m", 12, 134.11), ("350m", 24, 367.97), ("1b", 24, 1339.08)],
)
def test_the_papers_sizes(llama, size, layers, millions):
    with FakeTensorMode():
        model = llama.build_model(size, vocabulary=32000)
    matrices = [n for n, p in model.layers.named_parameters() if p.ndim == 2]
    assert len(matrices) == 7 * layers
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_shorter_context_reads_the_start_of_each_window(llama):
    torch.manual_seed(0)
    model = llama.build_model(context=16)
    batch = next(llama.batches(2))
    other = batch.clone()
    other[:, 17:] = 0
    assert torch.equal(llama.loss(model, batch), llama.loss(model, other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "7b"}, "unknown size '7b': choose one of tiny"),
        ({"context": 512}, "context must be between 1 and 256, got 512"),
        ({"context": 0}, "context must be between 1 and 256, got 0"),
        ({"vocabulary": 100}, "vocabulary must hold all 256 byte values, got 100"),
    ],
)
def test_wrong_arguments_are_named(llama, arguments, message):
    with pytest.raises(ValueError, match=message):
        llama.build_model(**arguments)


# The digits


def test_the_autoencoder_has_the_papers_widths(examples):
    model = examples["autoencoder_digits"].build_model()
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    widths = [64, 1000, 500, 250, 30, 250, 500, 1000, 64]
    assert shapes == [(after, before) for before, after in itertools.pairwise(widths)]


def test_autoencoder_images_are_split_without_overlap(examples):
    example = examples["autoencoder_digits"]
    training, held_out = example.images(False), example.images(True)
    assert (len(training), len(held_out)) == (1437, 360)
    assert training.min() == 0
    assert training.max() == 1
    assert sum(len(batch) for batch in example.eval_batches(50)) == 360
    assert {row.tobytes() for row in training}.isdisjoint(row.tobytes() for row in held_out)


def test_convnet_digits_are_split_without_overlap(examples):
    example = examples["convnet_digits"]
    (training, labels), (held_out, held_out_labels) = example.digits(False), example.digits(True)
    assert (len(training), len(labels)) == (1437, 1437)
    assert (len(held_out), len(held_out_labels)) == (360, 360)
    assert set(held_out_labels) == set(labels) == set(range(10))
    assert {row.tobytes() for row in training}.isdisjoint(row.tobytes() for row in held_out)


def test_the_convnet_generalises_after_a_few_steps(examples):
    example = examples["convnet_digits"]
    torch.manual_seed(0)
    model = example.build_model(width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = example.batches(64)
    for _ in range(40):
        optimizer.zero_grad()
        example.loss(model, next(batches)).backward()
        optimizer.step()
    model.eval()
    images, labels = next(example.eval_batches(360))
    with torch.no_grad():
        right = (model(images).argmax(dim=1) == labels).double().mean().item()
    assert right > 0.7  # a guess is right once in ten


def test_the_convnet_refuses_no_channels(examples):
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        examples["convnet_digits"].build_model(width=0)


@pytest.mark.parametrize("name", DIGITS)
def test_without_scikit_learn_it_says_what_to_install(name, monkeypatch):
    fresh = load(name)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        fresh.batches(2)
    assert fresh.build_model() is not None  # profiling with --simulate needs no images
