"""A user's folder with a tiny model, a hand-built profile of it, and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from subopt.app import main
from subopt.optimizers import METHODS
from subopt.profilers.record.profile import (
    Decomposition,
    Diagonality,
    Environment,
    Layer,
    Memory,
    MethodCost,
    Peak,
    PhasePeaks,
    Profile,
    Ratio,
    Settings,
    Spectrum,
    Spread,
    Target,
)

MODEL = """
import torch
from torch import nn

def build_model(width: int = 8):
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 6))

def batches(batch_size):
    for _ in range(4):
        yield torch.randn(batch_size, 6)

def loss(model, batch):
    return (model(batch) - batch).square().mean()
"""

RECIPE = """schema_version: 1
model: {target: model.py}
data: {batch_size: 2}
optimizer: {method: adamw, lr: 0.001}
schedule: {steps: 3}
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, holding model.py and recipe.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def subopt(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command in this process."""

    def run(*words: str) -> Ended:
        capsys.readouterr()
        status = main(words)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run


@pytest.fixture
def two_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of two methods instead of all: seconds less, where what is measured is not the question."""
    table = {name: METHODS[name] for name in ("adamw", "galore")}
    monkeypatch.setattr("subopt.profilers.profile.METHODS", table)


def spread(mean: float) -> Spread:
    return Spread(mean=mean, min=mean / 2, max=mean * 2)


def layer(name: str, effective_rank: float) -> Layer:
    return Layer(
        name=name,
        shape=[64, 128],
        kind="linear",
        role="matrix",
        reason="a linear layer's matrix",
        spectrum=Spectrum(
            stable_rank=spread(2.5),
            effective_rank=spread(effective_rank),
            rank_at_energy={"0.90": spread(16), "0.95": spread(32), "0.99": spread(60)},
            energy_at_rank={"4": spread(0.1), "16": spread(0.42), "32": spread(0.7)},
        ),
        diagonality=Diagonality(
            raw=Ratio(ratio=0.02, unbiased=0.03),
            one_sided=Ratio(ratio=0.05, unbiased=0.06),
            two_sided=Ratio(ratio=0.3, unbiased=0.4, in_sample=True),
            white_noise={"raw": 0.001},
        ),
    )


def cost(method: str, state_bytes: int, peak_bytes: int, overhead_ms: float | None) -> MethodCost:
    return MethodCost(
        method=method,
        state_bytes=state_bytes,
        transient_bytes=2**20,
        peak=Peak(
            bytes=peak_bytes,
            low_bytes=int(0.9 * peak_bytes),
            high_bytes=int(1.1 * peak_bytes),
            phase="backward",
            by_phase=PhasePeaks(backward=peak_bytes),
            source="simulated",
        ),
        step_flops=2e6,
        bound_flops=1e6,
        relative_flops=0.02,
        bound_relative=0.01,
        step_ms=1.0 + (overhead_ms or 0.0),
        overhead_ms=overhead_ms,
        step_ms_source="measured",
    )


def timing(kernel: str, median_ms: float, times_online_pca: float, step_ms: float) -> Decomposition:
    return Decomposition(
        shape=[64, 128],
        rank=16,
        kernel=kernel,
        median_ms=median_ms,
        iqr_ms=0.1,
        times_online_pca=times_online_pca,
        ms_per_training_step=step_ms,
        device="cpu, 1 thread",
    )


@pytest.fixture
def profile() -> Profile:
    """A complete profile of 14 layers, in no particular order of spread."""
    names = [f"blocks.{index}.attention.q_proj.weight" for index in range(14)]
    layers = [layer(name, 4.0 + 3 * (index % 7)) for index, name in enumerate(names)]
    vector = Layer(name="norm.weight", shape=[64], kind="norm", role="fallback", reason="a vector")
    return Profile(
        target=Target(spec="model.py", kwargs={"width": 8}, picked="function build_model", line=5),
        environment=Environment(
            subopt="0.1.0", torch="2.13.0", python="3.11", platform="Linux", device="cpu", threads=1
        ),
        settings=Settings(batch_size=8, batches=4, tokens_per_batch=2048),
        layers=[*layers, vector],
        memory=Memory(
            parameter_bytes=4 * 2**20,
            gradient_bytes=4 * 2**20,
            activation_bytes=90 * 2**20,
            temporary_bytes=2**20,
            optimizer_state_bytes=8 * 2**20,
            peak_bytes=100 * 2**20,
            source="simulated",
        ),
        methods=[
            cost("adamw", 8 * 2**20, 100 * 2**20, 0.0),
            cost("adadiag", 10 * 2**20, 102 * 2**20, 3.2),
            cost("galore", 5 * 2**20, 97 * 2**20, -0.5),
        ],
        decompositions=[
            timing("svd, thin", 12.0, 24.0, 0.84),
            timing("online PCA, closed form", 0.5, 1.0, 7.0),
        ],
        forward_backward_ms=20.0,
    )
