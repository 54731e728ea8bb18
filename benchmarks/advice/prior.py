"""What is known before anything is measured: methods, the recommended one first, each at the prior's rate."""

import gzip
from functools import cache
from pathlib import Path

from common.conditions import RESULTS

from subopt.profilers.record.profile import Profile
from subopt.recipes.prior.portfolio import portfolio
from subopt.recipes.prior.rates import prior_rate
from subopt.recipes.prior.traits import traits_of_profile

from .methods import BASELINE, SEARCHES
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
    """Return the prior's methods that have runs, best first."""
    known = portfolio(traits_of_profile(profile_of(task), steps=TASKS[task].steps), tuple(SEARCHES))
    return [(method, rate_of(method, task)) for method in known]


@cache
def entrants_of(task: str, recommended: str) -> list[Run]:
    """Return what a race starts with, best first: the recommended method, AdamW, then the prior's others."""
    others = dict(portfolio_of(task))
    methods = dict.fromkeys((recommended, BASELINE, *others))
    return [(method, rate_of(method, task)) for method in methods if method in SEARCHES]


def rate_of(method: str, task: str) -> float:
    """Return the prior's rate."""
    return prior_rate(method, traits_of_profile(profile_of(task), steps=TASKS[task].steps)).lr
