"""How many steps fit into a time, and what is measured to tell."""

from __future__ import annotations

import random

import pytest
import torch

from subopt.errors import OptionError
from subopt.optimizers import METHODS
from subopt.optimizers.updates.basis import is_refresh_due
from subopt.profilers.target.load import load_target
from subopt.profilers.timing import clock
from subopt.recipes.race import step_time as module
from subopt.recipes.race.candidates import Candidate
from subopt.recipes.race.setup import RaceSetup
from subopt.recipes.race.step_time import (
    ROUNDS,
    CandidateStepTime,
    measure_step_times,
    steps_within,
)
from subopt.recipes.recipe.load import parse_recipe
from subopt.recipes.training.trainable import make_trainable

from .conftest import MODEL, RECIPE


def counted(horizon_s, step_time, method, options):
    """The same step by step."""
    resolved = METHODS[method].resolve(options)
    early = "early_refresh" in METHODS[method].tunable and resolved["early_refresh"]
    extra = (
        0.0
        if step_time.refresh_ms is None
        else max(0.0, step_time.refresh_ms - step_time.ordinary_ms)
    )
    steps, spent_ms = 0, 0.0
    while True:
        step = steps + 1
        due = step > 1 and is_refresh_due(step, resolved["period"], early)
        spent_ms += step_time.ordinary_ms + extra * due
        if spent_ms > 1000 * horizon_s:
            return steps
        steps = step


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("adadiag", {}), ("adadiag", {"period": 3, "early_refresh": False}), ("soap", {"period": 1}),
        ("galore", {"period": 64}), ("galore", {"period": 65}), ("shampoo", {}),
    ],
)  # fmt: skip
def test_against_counting_one_by_one(method, options):
    numbers = random.Random(method)
    for _ in range(60):
        horizon_s = numbers.choice([0.0, 0.5, 3.0, 10.0, 40.0]) * numbers.random()
        step_time = CandidateStepTime(
            ordinary_ms=numbers.choice([8.0, 32.0]), refresh_ms=numbers.choice([4.0, 64.0, 512.0])
        )
        steps, step_ms = steps_within(horizon_s, step_time, method, options)
        assert steps == counted(horizon_s, step_time, method, options)
        assert steps * step_ms <= 1000 * horizon_s + 1e-9


def test_without_refreshes_the_pace_is_the_ordinary_steps():
    assert steps_within(10.0, CandidateStepTime(ordinary_ms=30.0), "adamw", {}) == (333, 30.0)
    assert steps_within(0.01, CandidateStepTime(ordinary_ms=30.0), "adamw", {}) == (0, 30.0)
    assert steps_within(10.0, CandidateStepTime(ordinary_ms=30.0, refresh_ms=20.0), "soap", {}) == (
        333,
        30.0,
    )


def test_a_longer_period_is_a_quicker_pace():
    step_time = CandidateStepTime(ordinary_ms=10.0, refresh_ms=110.0)
    often = steps_within(60.0, step_time, "soap", {"period": 10})
    seldom = steps_within(60.0, step_time, "soap", {"period": 50})
    assert often[0] < seldom[0]
    assert often[1] == pytest.approx(20.0, rel=0.01)
    assert seldom[1] == pytest.approx(12.0, rel=0.02)


def measured(folder, names, model=MODEL, options=None, **keys):
    """Paces of the tiny model, and whose steps were timed in which order."""
    (folder / "model.py").write_text(model)
    turns = []
    settings = {"budget_s": 1e6, "is_over": lambda: False} | keys
    step_times, left_out = measure_step_times(
        RaceSetup(
            parse_recipe(RECIPE),
            folder / "recipe.yaml",
            load_target("model.py", base=folder),
            torch.device("cpu"),
        ),
        [Candidate(method=name, start_lr=1e-3, options=options or {}, steps=12) for name in names],
        on_progress=lambda name, done, total: turns.append((name, done, total)),
        **settings,
    )
    return step_times, left_out, turns


def test_everyone_is_timed_in_turn(tmp_path):
    step_times, left_out, turns = measured(tmp_path, ["adamw", "galore"])
    assert left_out == []
    assert turns == [(name, k, 2 * ROUNDS) for k, name in enumerate(["adamw", "galore"] * ROUNDS)]
    assert step_times["adamw"].refresh_ms is None
    assert step_times["galore"].refresh_ms > 0
    for step_time in step_times.values():
        assert (
            min(step_time.ordinary_ms, step_time.build_ms, step_time.eval_ms, step_time.state_bytes)
            > 0
        )
    assert step_times["galore"].state_bytes != step_times["adamw"].state_bytes
    assert len(measured(tmp_path, ["adamw"], budget_s=0)[2]) == 1  # one round in any case
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, ["adamw"], is_over=lambda: True)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("galore", {}), ("galore", {"stagger": True}), ("adadiag", {"source": "covariance"}), ("shampoo", {}),
        ("soap", {}), ("soap", {"skip_first": False}),
        ("soap", {"use_current_gradient": True}), ("soap", {"use_current_gradient": True, "skip_first": False}),
    ],
)  # fmt: skip
def test_a_step_that_refreshes_is_timed_as_one(tmp_path, monkeypatch, method, options):
    """SOAP moves its bases after the step: a step late, the refresh would be the quick step, and all others slow."""
    made = []

    def making(*args):
        made.append(make_trainable(*args))
        return made[-1]

    def timed(run, devices):
        before = made[-1].optimizer.diagnostics()["refreshes"]
        run()
        return 1.0 + 10.0 * (made[-1].optimizer.diagnostics()["refreshes"] - before)

    monkeypatch.setattr(module, "make_trainable", making)
    monkeypatch.setattr(clock, "timed_ms", timed)
    step_times, _, _ = measured(tmp_path, [method], options=options)
    assert (step_times[method].ordinary_ms, step_times[method].refresh_ms) == (
        1.0,
        21.0,
    )  # of two matrices


def test_who_cannot_train_the_model_is_left_out(tmp_path):
    model = MODEL.replace("nn.Linear(", "Own(") + "\n\nclass Own(nn.Linear):\n    pass\n"
    step_times, left_out, _ = measured(tmp_path, ["adamw", "dlrt"], model)
    assert list(step_times) == ["adamw"]
    assert [item.method for item in left_out] == ["dlrt"]
    assert "no layer that dlrt could replace" in left_out[0].reason
    with pytest.raises(OptionError):
        measured(tmp_path, ["dlrt"], model)  # without the first one there is no race
