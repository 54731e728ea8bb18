"""How long the typical layer's subspace lasts, by what its basis is of. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from statistics import median_low
from typing import TYPE_CHECKING

from .common import measured_layers, median_of

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile, SubspaceLife


@dataclass(frozen=True)
class TypicalLife:
    """The median layer's subspace life, for bases of one source.

    Attributes:
        source: What the basis is of: gradient, momentum, covariance.
        layers: How many layers were followed.
        noisy: In how many of them the basis is no better than chance one step later.
        own: Energy that a gradient's own leading directions hold: the most a basis can.
        chance: What a random basis holds.
        after_one: Energy held one step later.
        lag: The longest time followed, in steps.
        frozen: Energy held after that time.
        tracked: The same, where online PCA followed the basis.
        period: Steps between refreshes that it supports; None where it outlasts the run.
        at_refresh: Energy held at the longest measured time within each layer's own period.
    """

    source: str
    layers: int
    noisy: int
    own: float | None
    chance: float | None
    after_one: float | None
    lag: int
    frozen: float | None
    tracked: float | None
    period: int | None
    at_refresh: float | None

    @property
    def is_noise(self) -> bool:
        """Whether the basis is no better than chance in most layers."""
        return 2 * self.noisy > self.layers


def sources(profile: Profile) -> list[str]:
    """Return what bases were made of, in the file's order."""
    return list(dict.fromkeys(s for layer in profile.layers for s in layer.subspace or {}))


def longest_lag(profile: Profile) -> int | None:
    """Return the longest time that any basis was followed, in training steps."""
    lags = (
        lag
        for layer in profile.layers
        for life in (layer.subspace or {}).values()
        for lag in life.lag
    )
    return max(lags, default=None)


def captured_after(life: SubspaceLife, lag: int, *, tracked: bool = False) -> float | None:
    """Return the energy that a basis holds `lag` steps later; None where that was not measured."""
    curve = life.tracked if tracked else life.frozen
    return curve[life.lag.index(lag)] if curve and lag in life.lag else None


def typical_life(profile: Profile, source: str) -> TypicalLife | None:
    """Return the median layer's life for bases of a source; None where no layer has one."""
    lives = [(layer.subspace or {}).get(source) for layer in measured_layers(profile)]
    found = [life for life in lives if life is not None]
    lag = longest_lag(profile)
    if not found or lag is None:
        return None
    # One that outlasts the run counts as the longest.
    period = median_low([inf if life.period is None else life.period for life in found])
    return TypicalLife(
        source=source,
        layers=len(found),
        noisy=sum(life.is_noise for life in found),
        own=median_of([life.own for life in found]),
        chance=median_of([life.chance for life in found]),
        after_one=median_of([captured_after(life, 1) for life in found]),
        lag=lag,
        frozen=median_of([captured_after(life, lag) for life in found]),
        tracked=median_of([captured_after(life, lag, tracked=True) for life in found]),
        period=None if period == inf else int(period),
        at_refresh=median_of([_at_refresh(life) for life in found]),
    )


def _at_refresh(life: SubspaceLife) -> float | None:
    """Return what a basis still holds when its period is over; what it holds first where the period is shorter."""
    if not life.lag:
        return None
    within = [lag for lag in life.lag if life.period is None or lag <= life.period]
    return captured_after(life, max(within, default=min(life.lag)))


def typical_lives(profile: Profile) -> list[TypicalLife]:
    """Return the median layer's life for every source."""
    found = (typical_life(profile, source) for source in sources(profile))
    return [life for life in found if life is not None]
