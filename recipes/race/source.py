"""What a race is run on: a recipe, and what is known of the other methods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from subopt.profilers.record.profile import Profile

from ..advice.advisor import recommend
from ..advice.proposal import to_recipe
from ..plan.budget import DeviceType
from ..plan.method_options import changed_options
from ..schema import OptionValue, Recipe

# A budget that everything fits: rows are asked for without one.
_ANY_BYTES = 2**50


@dataclass(frozen=True)
class RaceSource:
    """A recipe, and the profile of its model where there is one.

    Attributes:
        recipe: The run: model, data, schedule, precision, clipping, overrides, and the method it names.
        recipe_path: The file that the recipe's paths are relative to.
        profile: The profile that knows what fits, and that the result joins; None without one.
        budget_bytes: Memory that a candidate has to fit in; None: whatever the device has.
        device: Kind of that memory.
    """

    recipe: Recipe
    recipe_path: Path
    profile: Profile | None = None
    budget_bytes: int | None = None
    device: DeviceType = "cuda"

    @cached_property
    def options(self) -> dict[str, dict[str, OptionValue]] | None:
        """Return the profile's methods with their options, without those that do not fit; None without a profile."""
        if self.profile is None or not self.profile.methods:
            return None
        budget_bytes = self.budget_bytes or _ANY_BYTES
        advice = recommend(self.profile, budget_bytes=budget_bytes, device=self.device)
        fitting = (row for row in advice.rows if row.is_recommendable)
        return {row.method: changed_options(row.cost) for row in fitting}


def source_of_profile(
    profile: Profile, *, folder: Path, budget_bytes: int, device: DeviceType, steps: int
) -> RaceSource:
    """Return the race of the recipe that `subopt recommend` would write into a folder for a profile.

    A race that the profile holds is left aside: this one's result joins it, and the race must stay the same when it
    is resumed after that.

    Raises:
        DoesNotFitError: Nothing fits the budget.
    """
    path = folder / "recipe.yaml"
    profile = profile.model_copy(update={"race": None})
    advice = recommend(profile, budget_bytes=budget_bytes, device=device, steps=steps)
    recipe = to_recipe(advice, profile, recipe_path=path)
    return RaceSource(recipe, path, profile, budget_bytes, device)
