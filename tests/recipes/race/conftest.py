"""Races of a tiny model with invented step times, and a clock that stands: no test depends on the machine."""

from __future__ import annotations

import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from subopt.recipes.race import events, planning, running
from subopt.recipes.race import race as race_module
from subopt.recipes.race.budget import RaceBudget
from subopt.recipes.race.race import race
from subopt.recipes.race.source import RaceSource
from subopt.recipes.race.step_time import CandidateStepTime
from subopt.recipes.recipe.load import parse_recipe

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 8)
        self.drop = nn.Dropout(0.1)
        self.outer = nn.Linear(8, 11)

    def forward(self, ids):
        return self.outer(self.drop(torch.tanh(self.inner(self.embed(ids)))))


def build_model():
    return Net()


def batches(batch_size):
    while True:
        yield torch.randint(0, 11, (batch_size,))


def eval_batches(batch_size):
    yield torch.arange(11)
    yield torch.randint(0, 11, (batch_size,))
    yield torch.randint(0, 11, (batch_size,))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch), (batch * 3 + 1) % 11)
"""

# Of 400 steps the rungs of a cheap race are at 10 (which is the least there is) and 120.
RECIPE = """
model: {target: model.py}
data: {batch_size: 8}
optimizer: {method: lion, lr: 1e-2}
schedule: {steps: 400, warmup_steps: 4}
eval: {every: 20}
"""
# A second for an ordinary step of these; the others take one second as well.
STEP_MS = {"adamw": 500.0, "lion": 1000.0}
METHODS = ["adamw"]
SHARE = 0.5


def invented_step_times(setup, candidates, **_):
    """What is in the table, and for a method that refreshes twice that for such a step."""
    return {
        candidate.method: CandidateStepTime(
            ordinary_ms=STEP_MS.get(candidate.method, 1000.0),
            refresh_ms=2000.0 if candidate.method == "galore" else None,
        )
        for candidate in candidates
    }, []


class Races:
    """Runs races in a folder of its own, and keeps their events."""

    def __init__(self, folder: Path, recipe: str = RECIPE, model: str = MODEL) -> None:
        self.folder = folder
        (folder / "model.py").write_text(model)
        self.recipe_path = folder / "recipe.yaml"
        self.source = RaceSource(parse_recipe(recipe), self.recipe_path)
        self.events = []

    def __call__(self, name="race", *, stop_at=None, **keys):
        """Run a race; `stop_at` sends Ctrl-C at that step of all that are taken."""
        self.events.clear()
        steps = 0

        def on_event(event):
            nonlocal steps
            self.events.append(event)
            steps += isinstance(event, events.RunStepped)
            if isinstance(event, events.RunStepped) and steps == stop_at:
                signal.raise_signal(signal.SIGINT)

        asked = {"methods": METHODS, "budget": RaceBudget(share=SHARE), "device": "cpu"} | keys
        source = asked.pop("source", self.source)
        return race(source, output=self.folder / name, on_event=on_event, **asked)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def path(self, name):
        return self.folder / "race" / name


@contextmanager
def without_time():
    """No method's steps are timed, and no minute ever goes by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "measure_step_times", invented_step_times)
        for module in (race_module, planning, running):
            patch.setattr(module, "monotonic", lambda: 0.0)
        yield


@pytest.fixture
def fixed_step_times():
    with without_time():
        yield


@pytest.fixture
def races(tmp_path, fixed_step_times):
    return Races(tmp_path)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """An uninterrupted race, its folder and its events; several tests look at the same."""
    runner = Races(tmp_path_factory.mktemp("whole"))
    with without_time():
        result = runner()
    return runner, result


@pytest.fixture(scope="session")
def cut(tmp_path_factory):
    """The folder of a race that was interrupted after a few pieces."""
    runner = Races(tmp_path_factory.mktemp("cut"))
    with without_time():
        runner(stop_at=45)
    return runner.folder


@pytest.fixture
def half(races, cut):
    """A copy of that folder, to be spoilt."""
    return Path(shutil.copytree(cut / "race", races.folder / "race"))


def weights_of(run_folder):
    """The tensors of a run's newest checkpoint."""
    newest = max(
        (run_folder / "checkpoints").iterdir(), key=lambda p: int(p.name.removeprefix("step-"))
    )
    return load_file(newest / "model.safetensors")
