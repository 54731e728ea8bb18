"""What a race is run on: the recipe that every candidate gets, and what is known before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from subopt.profilers.record.profile import Profile

from ..advice.proposal import CLIP_NORM, FINAL_RATIO, WARMUP_SHARE, relative_target
from ..evidence.published import load_evidence
from ..prior.rates import prior_rate
from ..prior.traits import traits_of_profile
from ..schedule import DEFAULT_STEPS
from ..schema import Data, Model, Optimizer, Recipe, Schedule


@dataclass(frozen=True)
class RaceSource:
    """A recipe or a profile, as a race reads it.

    Attributes:
        recipe: Model, data, precision, clipping, weight decay, overrides and the schedule's shape, for everyone.
        recipe_path: The file that the recipe's paths are relative to.
        profile: The profile that ranks the methods and that the results join, or None.
        budget_bytes: Memory that a contestant has to fit in; None: whatever the device has.
        is_tuned: Whether the recipe's own method, rate and options are somebody's choice, and where its search begins.
    """

    recipe: Recipe
    recipe_path: Path
    profile: Profile | None = None
    budget_bytes: int | None = None
    is_tuned: bool = True


def source_of_profile(
    profile: Profile, *, folder: Path, budget_bytes: int | None = None
) -> RaceSource:
    """Return the source of a race of a profile's methods, treated as the recipe of `subopt recommend` would.

    The target is named relative to `folder`, and a contestant has to fit in `budget_bytes`.
    """
    path = folder / "race.yaml"
    baseline = load_evidence().baseline
    rate = prior_rate(baseline, traits_of_profile(profile))
    recipe = Recipe(
        model=Model(
            target=relative_target(profile, path),
            kwargs=dict(profile.target.kwargs),
            sha256=profile.target.sha256,
        ),
        data=Data(batch_size=profile.settings.batch_size),
        optimizer=Optimizer(method=baseline, lr=rate.lr, weight_decay=rate.weight_decay),
        schedule=Schedule(
            name="cosine",
            warmup_steps=int(DEFAULT_STEPS * WARMUP_SHARE),
            steps=DEFAULT_STEPS,
            final_ratio=FINAL_RATIO,
        ),
        clip_norm=CLIP_NORM,
        precision=profile.settings.dtype,
        seed=profile.settings.seed,
    )
    return RaceSource(recipe, path, profile, budget_bytes, is_tuned=False)
