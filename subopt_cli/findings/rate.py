"""The learning rate that a recipe gets: the number, where it comes from, and how sure it is."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from subopt.recipes.evidence.published import NearestRate, NoPublishedRate, RelativeToNearest
from subopt.recipes.evidence.raced_settings import RacedRate, known_rate
from subopt.recipes.reason import Reason

from ..text import plural
from .words import filled, words

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.evidence.published import PublishedLr

_NEAREST = "{rate.model} ({rate.paper.authors} {rate.paper.year})"


def method_rate(profile: Profile, method: str) -> PublishedLr:
    """Return the rate that `to_recipe` writes for a method; the one place that the screens take it from."""
    return known_rate(profile, method)


def rate_text(rate: PublishedLr) -> str:
    """Return a rate with where it comes from and how sure it is, in a line."""
    return f"{rate.lr:g}, {_origin(rate.reason)}"


@singledispatch
def _origin(reason: Reason) -> str:
    return words(reason)


@_origin.register
def _(reason: RacedRate) -> str:
    return f"the best of {plural(reason.trials, 'run')} in the race on this model"


@_origin.register
def _(reason: NearestRate) -> str:
    return filled(f"a guess: that of {_NEAREST}", reason)


@_origin.register
def _(reason: RelativeToNearest) -> str:
    return filled(f"a guess: {{factor:g}} times AdamW's of {_NEAREST}", reason)


@_origin.register
def _(reason: NoPublishedRate) -> str:
    return filled(f"a guess: AdamW's of {_NEAREST}", reason)
