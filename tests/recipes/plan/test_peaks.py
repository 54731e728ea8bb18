"""Peaks at other batch sizes and in other ways: those of a profile made there, and by hand."""

from __future__ import annotations

import pytest

from subopt.errors import UsageError
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Calibration, Ratios, Settings
from subopt.profilers.target.load import load_target
from subopt.recipes.plan.budget import Fit
from subopt.recipes.plan.passes import PassConfig
from subopt.recipes.plan.peaks import peak_at

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.drop = nn.Linear(24, 96), nn.Dropout(0.1)
        self.outer = nn.Linear(96, 24)

    def forward(self, x):
        return x + self.outer(self.drop(torch.relu(self.inner(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 24)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.norm = nn.BatchNorm1d(24)

    def forward(self, ids):
        return self.norm(self.blocks(self.embed(ids)).mean(1)) @ self.embed.weight.T


def build_model():
    return Net()


def batches(batch_size):
    while True:
        yield torch.randint(30, (batch_size, 10))


def loss(model, ids):
    return nn.functional.cross_entropy(model(ids), ids[:, 0])
"""
METHODS = ["adamw", "soap", "adafactor", "dlrt"]


@pytest.fixture(scope="module")
def profile_at(tmp_path_factory):
    """Return a function from a batch size to the model's simulated profile there."""
    file = tmp_path_factory.mktemp("model") / "model.py"
    file.write_text(MODEL)
    made = {}

    def profile(size):
        if size not in made:
            settings = Settings(batch_size=size, batches=1, simulate=True)
            made[size] = run_profile(load_target(str(file)), settings, methods=METHODS)
        return made[size]

    return profile


def row(profile, method):
    return next(cost for cost in profile.methods if cost.method == method)


@pytest.mark.parametrize("size", [2, 40])
@pytest.mark.parametrize("method", ["adamw", "soap", "adafactor"])
def test_the_peak_at_another_size_is_that_of_a_profile_made_there(profile_at, method, size):
    base, fresh = profile_at(4), profile_at(size)
    said, found = peak_at(base, row(base, method), size), row(fresh, method).peak
    assert found.bytes <= said.bytes <= 1.01 * found.bytes
    for phase, total in said.by_phase:
        assert 0 <= total - getattr(found.by_phase, phase) <= 0.01 * total
    assert said.low_bytes <= found.bytes <= said.high_bytes


@pytest.mark.parametrize("size", [2, 40])
def test_a_method_with_passes_of_its_own_is_never_below_what_it_takes(profile_at, size):
    base, fresh = profile_at(4), profile_at(size)
    said = peak_at(base, row(base, "dlrt"), size)
    assert said.bytes >= row(fresh, "dlrt").peak.bytes - 64  # the loss itself does not shrink
    with pytest.raises(UsageError, match="does not know what dlrt takes"):
        peak_at(base, row(base, "dlrt"), size, PassConfig(recomputed=True))


def test_at_its_own_size_it_is_the_profile_s(profile_at):
    profile = profile_at(4)
    for cost in profile.methods:
        peak = peak_at(profile, cost, 4)
        assert (peak.bytes, peak.phase) == (cost.peak.bytes, cost.peak.phase)
        assert (peak.low_bytes, peak.high_bytes) == (cost.peak.low_bytes, cost.peak.high_bytes)


def test_each_way_moves_the_phases_as_it_should(profile_at):
    profile = profile_at(4)
    cost, gradients = row(profile, "adamw"), profile.memory.gradient_bytes
    plain, held, again, fused = (
        dict(peak_at(profile, cost, 40, config).by_phase)
        for config in (
            PassConfig(),
            PassConfig(accumulating=True),
            PassConfig(recomputed=True),
            PassConfig(fused=True),
        )
    )
    assert held["forward"] == plain["forward"] + gradients
    assert plain["backward"] <= held["backward"] <= plain["backward"] + gradients
    assert again["forward"] < plain["forward"]
    assert again["step"] == plain["step"] == held["step"]
    assert fused["backward"] < plain["backward"] + cost.transient_bytes
    assert set(fused) == {"forward", "backward"}  # nothing is left to step


def test_beyond_what_was_looked_at_there_is_no_answer(profile_at):
    profile = profile_at(4)
    with pytest.raises(UsageError, match="batches of up to 65536 examples, not of 65537"):
        peak_at(profile, row(profile, "adamw"), 65537)


def test_libraries_and_earlier_runs_have_to_fit_beside_the_estimate(profile_at):
    profile = profile_at(4)
    cost = row(profile, "adamw")
    peak = peak_at(profile, cost, 4)
    assert peak.overhead_bytes == 34 * 2**20  # of a GPU of unknown name: cuBLAS and a segment
    assert peak.fits(peak.bytes + peak.overhead_bytes) is Fit.YES
    assert peak.fits(peak.bytes + peak.overhead_bytes - 1) is Fit.MAYBE
    over = Ratios(runs=3, median=1.1, least=1.0, largest=1.25)
    calibrated = profile.model_copy(update={"calibration": Calibration(peak=over)})
    more = peak_at(calibrated, cost, 4).overhead_bytes - peak.overhead_bytes
    assert more == pytest.approx(peak.bytes / 4, abs=1)
