"""What is known before anything is measured: the prior's portfolio of methods, each with the prior's rate."""

import gzip
from functools import cache
from pathlib import Path

from common.conditions import RESULTS

from subopt.profilers.record.profile import Profile
from subopt.recipes.prior.portfolio import portfolio
from subopt.recipes.prior.rates import prior_rate
from subopt.recipes.prior.traits import traits_of_profile

from .methods import SEARCHES
from .outcomes import Run
from .task_list import TASKS

PROFILES = RESULTS / "advice_profiles"


@cache
def profile_of(task: str) -> Profile:
    """Return a task's quick profile."""
    return Profile.model_validate_json(gzip.decompress(profile_path(task).read_bytes()))


def profile_path(task: str) -> Path:
    """Return the file of a task's quick profile."""
    return PROFILES / f"{task}.json.gz"


@cache
def portfolio_of(task: str) -> list[Run]:
    """Return methods, best first, each at the rate to start from, of those that have runs."""
    traits = traits_of_profile(profile_of(task), steps=TASKS[task].steps)
    methods = portfolio(traits, tuple(SEARCHES))
    return [(method, prior_rate(method, traits).lr) for method in methods]
