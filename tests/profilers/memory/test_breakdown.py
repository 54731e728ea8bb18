"""What fills the memory, and what would free some of it: against the same model really changed."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from subopt.profilers.memory.breakdown import contents
from subopt.profilers.memory.footprint import explained
from subopt.profilers.memory.phases import simulated_memory, simulated_peak, training_phases
from subopt.profilers.memory.savings import savings
from subopt.profilers.memory.simulation import SimulatedModel

VOCABULARY = 600


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Model(nn.Module):
    """A small language model whose parts can be made to dominate; `how` changes how it is trained."""

    def __init__(self, width=32, layers=4, vocabulary=VOCABULARY, how=""):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.how = how

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.how == "again" else layer(x)
        x, wanted = x.flatten(0, 1), tokens.flatten()
        if self.how != "pieces":
            return functional.cross_entropy(self.head(x), wanted)

        def part(rows, targets):
            return functional.cross_entropy(self.head(rows), targets, reduction="sum")

        pairs = zip(x.chunk(8), wanted.chunk(8), strict=True)
        return sum(checkpoint(part, *pair, use_reentrant=False) for pair in pairs) / len(wanted)


def loss(model, tokens):
    return model(tokens)


def tokens(batch_size=16, length=32, vocabulary=VOCABULARY):
    return torch.arange(batch_size * length).reshape(batch_size, length) % vocabulary


LOGITS, ACTIVATIONS, STATE = (
    {"width": 16, "layers": 2},
    {"width": 64, "layers": 8, "vocabulary": 30},
    {"width": 256, "layers": 2, "vocabulary": 30, "batch_size": 1},
)


@cache
def followed(how="", batch_size=16, **sizes):
    batch = tokens(batch_size, vocabulary=sizes.get("vocabulary", VOCABULARY))
    return SimulatedModel(lambda: Model(how=how, **sizes), batch, loss)


def peak_of(simulated):
    return simulated_peak(simulated.peaks, simulated.step_peaks("adamw", {}), 0)


def savings_of(simulated):
    step = simulated.step_peaks("adamw", {})
    return {s.change: s.bytes for s in savings(simulated.timeline, simulated.peaks, step)}


def saving(simulated, part):
    return next((size for text, size in savings_of(simulated).items() if part in text), 0)


@pytest.mark.parametrize("sizes", [LOGITS, ACTIVATIONS, STATE])
def test_the_timeline_has_the_instants_that_the_tracker_saw(sizes):
    simulated = followed(**sizes)
    for phase, at in (
        ("forward", simulated.peaks.forward),
        ("backward", simulated.peaks.backward),
    ):
        alive = simulated.timeline.highest(phase).items()
        assert at.total() == sum(n * s.bytes for s, n in alive)
        for category in ("parameter", "gradient", "activation", "temporary"):
            assert at[category] == sum(n * s.bytes for s, n in alive if s.category == category)
    both = max(simulated.peaks.forward.total(), simulated.peaks.backward.total())
    assert simulated.timeline.peak_bytes(lambda stored: 1.0) == both


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        (LOGITS, "gradients of the logits of head"),
        (ACTIVATIONS, "activations of layers.0-7"),
        (STATE, "optimizer state"),
    ],
)
def test_the_contents_sum_to_the_peak_and_the_largest_comes_first(sizes, largest):
    simulated = followed(**sizes)
    step = simulated.step_peaks("adamw", {})
    memory = explained(simulated_memory(simulated.peaks, step), simulated, step)
    found = [entry.bytes for entry in memory.contents]
    assert sum(found) == memory.peak_bytes == peak_of(simulated).bytes
    assert sum(memory.at_peak.values()) == memory.peak_bytes
    assert memory.contents[0].name.startswith(largest)
    assert found == sorted(found, reverse=True)
    assert len(found) <= 12
    state = next(entry for entry in memory.contents if entry.category == "state")
    assert state.bytes == memory.optimizer_state_bytes


@pytest.mark.parametrize("sizes", [LOGITS, ACTIVATIONS, STATE])
def test_the_parts_of_the_peak_are_those_of_its_instant(sizes):
    simulated = followed(**sizes)
    step = simulated.step_peaks("adamw", {})
    memory, peak = simulated_memory(simulated.peaks, step), peak_of(simulated)
    assert memory.at_peak == peak.categories[peak.phase]
    assert sum(memory.at_peak.values()) == memory.peak_bytes
    held = memory.parameter_bytes + memory.gradient_bytes + memory.optimizer_state_bytes
    held += memory.activation_bytes + memory.temporary_bytes
    assert held > memory.peak_bytes  # not all gradients, or not all activations, are there


def test_logits_are_as_large_as_they_are():
    simulated = followed(**LOGITS)
    found = contents(simulated.timeline, simulated.peaks, simulated.step_peaks("adamw", {}))
    size = 16 * 32 * VOCABULARY * 4
    logits = [entry.bytes for entry in found if "logits" in entry.name]
    assert sum(logits) in (2 * size, 3 * size)


def test_where_the_peak_is_a_step_nothing_is_told_apart_but_the_categories():
    simulated = followed(**STATE)
    found = contents(simulated.timeline, simulated.peaks, simulated.step_peaks("adafactor", {}))
    names = {entry.name for entry in found}
    expected = {"parameters", "gradients", "optimizer state", "temporaries of the update"}
    assert names == expected | {"the batch"}


@pytest.mark.parametrize("beyond", [1000, -1000])
def test_a_measured_peak_beyond_the_followed_tensors_gets_an_entry_and_one_below_none(beyond):
    simulated = followed(**LOGITS)
    step = simulated.step_peaks("adamw", {})
    memory = simulated_memory(simulated.peaks, step)
    memory = memory.model_copy(update={"peak_bytes": memory.peak_bytes + beyond})
    found = explained(memory.model_copy(update={"at_peak": {}}), simulated, step)
    known = memory.peak_bytes if beyond > 0 else 0
    assert sum(entry.bytes for entry in found.contents) == sum(found.at_peak.values()) == known


@pytest.mark.parametrize(
    ("how", "part", "sizes"),
    [("pieces", "in 8 pieces", LOGITS), ("again", "checkpointing", ACTIVATIONS)],
)
def test_a_change_frees_what_it_says_at_least_and_not_much_more(how, part, sizes):
    plain = followed(**sizes)
    said = saving(plain, part)
    freed = peak_of(plain).bytes - peak_of(followed(how=how, **sizes)).bytes
    assert 0 < said <= freed
    assert said > 0.85 * freed


@pytest.mark.parametrize("sizes", [LOGITS, ACTIVATIONS])
def test_half_the_batch_frees_what_it_says_at_least(sizes):
    plain, half = followed(**sizes), followed(batch_size=8, **sizes)
    kept = max(half.peaks.forward.total() + half.peaks.gradient_bytes, peak_of(half).bytes)
    state = half.step_peaks("adamw", {}).state_bytes
    # the gradients are whole throughout; in the backward pass they were already there in part
    most = max(half.peaks.forward.total(), half.peaks.backward.total())
    upper = max(kept, most + half.peaks.gradient_bytes + state)
    said = saving(plain, "half the batch")
    assert 0 < said <= peak_of(plain).bytes - max(kept, peak_of(half).bytes)
    assert said >= peak_of(plain).bytes - upper - peak_of(plain).bytes // 500


def test_updating_at_once_frees_the_gradients_but_one():
    """Against a step taken in the gradients' hooks."""
    simulated = followed(**STATE)
    step = simulated.step_peaks("adamw", {})
    said = saving(simulated, "as soon as")
    largest = 256 * 4 * 256 * 4
    everything = simulated.peaks.gradient_bytes - largest
    assert 0 < said <= everything
    phases = training_phases(simulated.peaks, step)
    passes = max(phases["forward"].total(), phases["backward"].total())
    assert said >= phases["step"].total() - passes - largest - step.step["temporary"]


def test_nothing_is_saved_below_the_next_highest_phase():
    simulated = followed(**LOGITS)
    peak = peak_of(simulated)
    floor = peak.by_phase.step
    for change, size in savings_of(simulated).items():
        if "as soon as" not in change:
            assert peak.bytes - size >= floor, change


def test_small_savings_are_left_out_and_the_rest_is_sorted():
    simulated = followed(**LOGITS)
    found = list(savings_of(simulated).values())
    assert found == sorted(found, reverse=True)
    assert min(found) > 0.02 * peak_of(simulated).bytes
    assert saving(followed(**STATE), "in 8 pieces") == 0


def test_one_example_cannot_be_halved():
    assert saving(followed(batch_size=1, **LOGITS), "half the batch") == 0


@pytest.mark.parametrize(
    "method",
    ["adamw", "lion", "muon", "galore-8bit", "osd", "soap", "sketchy", "block-adam", "dlrt"],
)
def test_the_categories_of_every_phase_sum_to_it(method):
    simulated = followed(width=8, layers=2, vocabulary=12)
    step = simulated.step_peaks(method, {})
    peak = simulated_peak(simulated.peaks, step, 0)
    sums = {phase: sum(sizes.values()) for phase, sizes in peak.categories.items()}
    assert sums == {k: v for k, v in peak.by_phase.model_dump().items() if v is not None}
    for phase, sizes in peak.categories.items():
        assert sizes["state"] == step.state_bytes, phase
        assert sizes["parameter"] > 0
    assert peak.categories["forward"]["activation"] > 0
