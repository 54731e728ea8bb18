"""What `profile`, `recommend` and `report` share: the advice for this machine's memory, and what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ._options import DEFAULT_PROFILE, HEADROOM, profile_memory_limit

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice

DEFAULT_RECIPE = Path("recipe.yaml")


def own_advice(profile: Profile) -> Advice | None:
    """Return the advice for the memory that a profile was asked about, as `recommend` gives it by default.

    Returns:
        The advice; None where the profile holds too little for any.
    """
    from subopt.recipes.advice.advisor import recommend

    limit = profile_memory_limit(profile)
    try:
        return recommend(
            profile, budget_bytes=limit.total_bytes, device=limit.device, headroom=HEADROOM
        )
    except UsageError:
        return None


def recommend_command(profile: Path, gpu_mem: str | None = None) -> str:
    """Return the command that gives the advice again, with the options that are not the default."""
    words = ["subopt", "recommend"]
    if gpu_mem not in {None, "auto"}:
        words += ["--gpu-mem", str(gpu_mem)]
    if profile != DEFAULT_PROFILE:
        words += ["--profile", str(profile)]
    return shlex.join(words)


def train_command(recipe: Path, advice: Advice) -> str:
    """Return the command that goes on from a recipe: the run, begun with a race where its rate was not measured."""
    from subopt.recipes.evidence.raced_settings import RacedRate

    is_measured = advice.rate is not None and isinstance(advice.rate.origin, RacedRate)
    command = shlex.join(["subopt", "train", str(recipe)])
    return command if is_measured else f"{command} --race   (tries other rates first)"
