"""The learning rate that a recipe gets: the number, where it comes from, and how sure it is."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from subopt.recipes.evidence.raced_settings import RacedRate, known_rate
from subopt.recipes.prior.rates import FittedRate, RelatedRate
from subopt.recipes.reason import Reason

from ..text import plural
from .words import words

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.evidence.raced_settings import KnownRate
    from subopt.recipes.prior.traits import Traits


def method_rate(profile: Profile, method: str, traits: Traits) -> KnownRate:
    """Return the rate that `to_recipe` writes for a method; the one place that the screens take it from."""
    return known_rate(profile, method, traits)


def rate_text(rate: KnownRate) -> str:
    """Return a rate with where it comes from and how sure it is, in a line."""
    return f"{rate.lr:g}, {_origin(rate.reason)}"


@singledispatch
def _origin(reason: Reason) -> str:
    return words(reason)


@_origin.register
def _(reason: RacedRate) -> str:
    return f"the best of {plural(reason.trials, 'run')} in the race on this model"


@_origin.register
def _(reason: FittedRate) -> str:
    return f"{_within(reason.decades_error)} (fitted to {plural(reason.tasks, 'task')})"


@_origin.register
def _(reason: RelatedRate) -> str:
    return f"{_within(reason.decades_error)} (as {reason.like}'s)"


def _within(decades_error: float) -> str:
    return f"predicted, the best within {10**decades_error:.2g}x of it"
