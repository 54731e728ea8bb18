"""What is raced where a profile is given: the recipe that its advice would write."""

from __future__ import annotations

from pathlib import Path

from subopt.recipes.race.source import source_of_profile

from ..advice_profile import GIB, contestant, layer, profile, race

METHODS = {"adamw": None, "soap": None}


def test_a_race_in_the_profile_does_not_change_what_is_raced():
    """Its own result joins the profile: the race could not be resumed if that made it another one."""
    before = profile([layer()], METHODS)
    won = contestant("soap", (1.5, 1.5)).model_copy(update={"lr": 0.3, "steps": 1000})
    after = profile([layer()], METHODS, race=race(won, share=0.3))
    asked = {"folder": Path(), "budget_bytes": 20 * GIB, "device": "cpu", "steps": 500}
    sources = [source_of_profile(one, **asked) for one in (before, after)]
    assert sources[0].recipe.optimizer == sources[1].recipe.optimizer
    assert sources[0].recipe.schedule.steps == 500
    assert sources[1].recipe.optimizer.lr != 0.3
