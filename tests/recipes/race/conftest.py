"""Races of a tiny model at an invented pace: a second for every step, so that no test depends on the clock."""

from __future__ import annotations

import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from subopt.recipes.race import events, running
from subopt.recipes.race import race as race_module
from subopt.recipes.race.race import race
from subopt.recipes.race.source import RaceSource
from subopt.recipes.race.step_time import CandidateStepTime
from subopt.recipes.recipe.load import parse_recipe

from ..conftest import RECIPE as SHORTER

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


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch), (batch * 3 + 1) % 11)
"""

RECIPE = SHORTER.replace("steps: 6", "steps: 12")

# At a second for every step and runs of twelve steps there is room for four trials of each of three methods and one
# repetition, or for one trial of each of two.
MINUTES = 2.25
SHORT = 0.45


def invented_paces(setup, candidates, **_):
    """A second for an ordinary step, and what refreshes takes half of one more."""
    refreshing = {"galore": 1500.0}
    return {
        candidate.method: CandidateStepTime(
            ordinary_ms=1000.0, refresh_ms=refreshing.get(candidate.method)
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

    def __call__(self, name="race", *, stop_after=None, **keys):
        """Run a race; `stop_after` sends Ctrl-C at that point of a learning curve, counted over all trials."""
        self.events.clear()
        points = 0

        def on_event(event):
            nonlocal points
            self.events.append(event)
            points += isinstance(event, events.PointReached)
            if isinstance(event, events.PointReached) and points == stop_after:
                signal.raise_signal(signal.SIGINT)

        settings = {
            "methods": ["galore", "lion"],
            "minutes": MINUTES,
            "seeds": 2,
            "device": "cpu",
        } | keys
        source = settings.pop("source", self.source)
        return race(source, output=self.folder / name, on_event=on_event, **settings)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@contextmanager
def without_time():
    """No method's steps are timed, and no minute ever goes by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race_module, "measure_step_times", invented_paces)
        for module in (race_module, running):
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
    """The folder of a race that was cut after a few trials."""
    runner = Races(tmp_path_factory.mktemp("cut"))
    with without_time():
        runner(stop_after=30)
    return runner.folder


@pytest.fixture
def half(races, cut):
    """A copy of that folder, to be spoilt."""
    return Path(shutil.copytree(cut / "race", races.folder / "race"))
