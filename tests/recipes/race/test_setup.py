"""The recipe of one run of a race: what it has of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from subopt.recipes.race.candidates import Candidate
from subopt.recipes.race.setup import RaceSetup
from subopt.recipes.recipe.load import parse_recipe

RECIPE = """
model: {target: model.py}
optimizer: {method: soap, lr: 0.01, weight_decay: 0.1, fallback: {lr: 0.003}}
schedule: {steps: 100, warmup_steps: 10}
why: {predicted_peak_bytes: 123, predicted_step_ms: 4.5, evidence: [the rate is 0.01]}
"""


@pytest.mark.parametrize(
    ("method", "lr", "peak_bytes", "evidence"),
    [
        ("soap", 0.01, 123, ["the rate is 0.01"]),
        ("soap", 0.03, 123, []),  # another rate takes as much memory and time
        ("adamw", 0.01, None, []),
    ],
)
def test_predictions_are_those_of_the_recipes_own_method(method, lr, peak_bytes, evidence):
    recipe = parse_recipe(RECIPE, "recipe.yaml")
    setup = RaceSetup(recipe, Path("recipe.yaml"), None, torch.device("cpu"))
    candidate = Candidate(
        method=method, start_lr=0.01, fallback_lr=0.003, weight_decay=0.1, steps=50
    )
    found = setup.recipe_of(candidate, candidate.setting(lr))
    assert (found.why.predicted_peak_bytes, found.why.evidence) == (peak_bytes, evidence)
    assert (found.optimizer.method, found.optimizer.lr) == (method, lr)
    assert found.optimizer.lr * found.optimizer.weight_decay == pytest.approx(0.01 * 0.1)
    assert found.optimizer.fallback.lr == pytest.approx(0.003 * lr / 0.01)
    assert (found.schedule.steps, found.schedule.warmup_steps) == (50, 5)
