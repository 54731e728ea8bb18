"""The passes at other batch sizes: what two sizes say is what every size takes, for models of all kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subopt.optimizers.state.storage_tracker import StorageTracker
from subopt.profilers.memory.batch_curve import LARGEST_BATCH, batch_curve
from subopt.profilers.memory.simulation import SimulatedModel, SimulationError


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, 4 * width)
        self.drop = nn.Dropout(0.2)
        self.outer = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.outer(self.drop(torch.tanh(self.inner(x))))


class Tied(nn.Module):
    """Repeated blocks with dropout, and a head that is the embedding."""

    def __init__(self, width=16):
        super().__init__()
        self.embed = nn.Embedding(40, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def convnet():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.Flatten(),
        nn.Linear(16 * 9, 10),
    )


def language_loss(model, ids):
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def image_loss(model, images):
    return model(images).square().mean()


def all_pairs_loss(model, images):
    """Quadratic in the batch, as a contrastive loss is."""
    found = model(images)
    return (found @ found.T).logsumexp(dim=1).mean()


def token_batch(size):
    return torch.zeros((size, 12), dtype=torch.int64)


def image_batch(size):
    return torch.zeros((size, 1, 8, 8))


CASES = {
    "tied weights and dropout": (Tied, language_loss, token_batch),
    "convolutions with batch norm": (convnet, image_loss, image_batch),
    "one layer": (lambda: nn.Linear(8, 3), image_loss, lambda size: torch.zeros((size, 8))),
    "all pairs": (convnet, all_pairs_loss, image_batch),
}


def no_data(size):
    raise AssertionError(f"asked for {size} examples")


def line_between(points, size, name):
    """By hand: the straight line between the two points around a size."""
    left = max((p for p in points if p.batch_size <= size), key=lambda p: p.batch_size)
    right = min((p for p in points if p.batch_size >= size), key=lambda p: p.batch_size)
    if left is right:
        return getattr(left, name)
    share = (size - left.batch_size) / (right.batch_size - left.batch_size)
    return (1 - share) * getattr(left, name) + share * getattr(right, name)


@pytest.mark.parametrize("own", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_lines_between_the_sizes_are_what_a_fresh_simulation_takes_and_never_less(case, own):
    build, loss, batch_of = CASES[case]
    notes = []
    points = batch_curve(SimulatedModel(build, batch_of(own), loss), own, no_data, notes)
    plain = [point for point in points if not point.recomputed]
    assert notes == []
    sizes = [point.batch_size for point in plain]
    assert sizes == sorted(sizes)
    assert own in sizes
    for size in (2, 7, 50):
        fresh = SimulatedModel(build, batch_of(size), loss).peaks
        weights = fresh.parameter_bytes
        for name, at in (("forward_bytes", fresh.forward), ("backward_bytes", fresh.backward)):
            said, found = line_between(plain, size, name), at.total() - weights
            assert found <= said + 1e-6
            if (
                case != "all pairs"
            ):  # a line between sizes four times apart is well above a parabola
                assert said <= found + 0.01 * (found + weights)


def test_small_models_reach_the_largest_batch_and_only_blocks_are_recomputed():
    for case, has_blocks in (("tied weights and dropout", True), ("one layer", False)):
        build, loss, batch_of = CASES[case]
        points = batch_curve(SimulatedModel(build, batch_of(4), loss), 4, no_data, [])
        assert points[0].batch_size == 1
        assert max(p.batch_size for p in points if not p.recomputed) == LARGEST_BATCH
        again = [point for point in points if point.recomputed]
        assert bool(again) == has_blocks
        plain = {p.batch_size: p for p in points if not p.recomputed}
        for point in again:
            if point.batch_size in plain:
                assert point.forward_bytes < plain[point.batch_size].forward_bytes


def real_peak(*, recomputed=False, accumulating=False, fused=False, size=6):
    """The highest bytes beyond weights in a backward pass on real tensors."""
    from subopt.profilers.target.activation_checkpointing import recompute_blocks

    model, batch = Tied(), token_batch(size)
    if recomputed:
        recompute_blocks(model)
    if accumulating:
        language_loss(model, batch).backward()

    def let_go(parameter):
        parameter.grad = None

    if fused:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(let_go)
    held = {id(p): p for p in model.parameters()}.values()
    tracker = StorageTracker()
    tracker.file(held, "weights")
    tracker.file([batch, *(p.grad for p in held)], "held")
    with tracker:
        loss = language_loss(model, batch)
        tracker.reset_peak()
        loss.backward()
    return tracker.peak_bytes.total() - tracker.live_bytes["weights"]


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_that_stay_and_gradients_that_go_are_those_of_real_tensors(recomputed):
    simulated = SimulatedModel(Tied, token_batch(4), language_loss)
    points = batch_curve(simulated, 4, no_data, [])
    like = [point for point in points if point.recomputed == recomputed]
    backward, without, update = (
        line_between(like, 6, name)
        for name in ("backward_bytes", "without_gradients_bytes", "update_bytes")
    )
    gradients = simulated.peaks.gradient_bytes
    # The random states that real checkpointing keeps, 5 KiB for each block, are not followed.
    states = 3 * 5056 if recomputed else 0
    assert backward == pytest.approx(real_peak(recomputed=recomputed), abs=states + 64)
    held = real_peak(recomputed=recomputed, accumulating=True)
    assert without + gradients == pytest.approx(held, abs=states + 64)
    gone = real_peak(recomputed=recomputed, fused=True)
    assert max(without, update) == pytest.approx(gone, abs=states + 64)


class Ragged(nn.Module):
    """Takes examples of different lengths in one row, with their lengths beside it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, rows, lengths):
        return torch.stack([part.mean() for part in self.layer(rows).split(lengths)])


def test_a_batch_that_cannot_be_stretched_is_asked_for_in_small_sizes():
    asked, notes = [], []

    def batch_of(size):
        asked.append(size)
        if size > 8:
            raise SimulationError("no data")
        return (torch.zeros(3 * size, 8), [3] * size)

    simulated = SimulatedModel(Ragged, batch_of(4), lambda model, batch: model(*batch).sum())
    points = batch_curve(simulated, 4, batch_of, notes)
    assert [point.batch_size for point in points] == [1, 2, 4, 8]
    assert max(asked) == 16
    assert "memory of batches of more than 8" in notes[0]
