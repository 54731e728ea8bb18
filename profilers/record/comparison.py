"""What a comparison of two profiles consists of: plain records, A the first profile and B the second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Difference:
    """Something in target, settings or environment that is not the same in both profiles, as text; "" is absent."""

    what: str
    a: str
    b: str


@dataclass(frozen=True)
class Change:
    """One quantity in both profiles.

    Attributes:
        a: In the first profile.
        b: In the second.
        beyond_spread: Whether the ranges over the batches, least to greatest, do not touch; None where the quantity
            has no spread in the profiles, or a single batch was looked at, so that a difference may be chance.
    """

    a: float
    b: float
    beyond_spread: bool | None = None

    @property
    def difference(self) -> float:
        """B less A."""
        return self.b - self.a

    @property
    def ratio(self) -> float | None:
        """B over A."""
        return self.b / self.a if self.a else None


@dataclass(frozen=True)
class LayerChange:
    """What changed in one layer; quantities missing on either side are left out.

    Attributes:
        a: Its name in the first profile.
        b: Its name in the second.
        matched_by: Why the two stand side by side.
        effective_rank: As a share of the short side, so that layers of different width compare.
        rank_95: Directions that hold 95 % of the energy, as a share of the short side.
        diagonality: By basis. The unbiased estimate where the numbers of batches differ, which the ratio depends on.
        period: Steps between refreshes that a gradient's basis supports; the longest time followed where it outlasts
            that, which is then a lower bound.
        signal: Share of one batch's gradient energy that is common to all batches.
    """

    a: str
    b: str
    matched_by: MatchedBy
    effective_rank: Change | None
    rank_95: Change | None
    diagonality: Mapping[str, Change]
    period: Change | None
    signal: Change | None


@dataclass(frozen=True)
class Trend:
    """One quantity over all matched layers that have it in both profiles.

    Attributes:
        layers: How many.
        a: Median in the first profile.
        b: Median in the second.
        up: Layers where it is larger in the second: beyond the spread where there is one.
        down: Layers where it is smaller, likewise.
        has_spread: Whether `up` and `down` leave out what lies within the spread.
    """

    layers: int
    a: float
    b: float
    up: int
    down: int
    has_spread: bool


@dataclass(frozen=True)
class MethodChange:
    """What one method costs in both."""

    method: str
    state_bytes: Change
    peak_bytes: Change | None
    step_ms: Change | None


@dataclass(frozen=True)
class Comparison:
    """Two profiles side by side.

    Attributes:
        differences: What is not the same in target, settings and environment.
        layers: The matched layers, in the first profile's order.
        unmatched_a: Measured layers of the first profile without a partner.
        unmatched_b: Those of the second.
        typical: Medians of effective rank and rank at 95 %, as shares, over all measured layers, matched or not.
        trends: Every quantity over the matched layers, by name; diagonality as `diagonality.raw` and so on.
        methods: Methods in both, in the first profile's order.
        only_a: Methods that only the first profile has.
        only_b: Methods that only the second has.
        memory: Plain AdamW's bytes by category, and the peak.
        uses_unbiased: Whether diagonality is the unbiased estimate.
    """

    differences: tuple[Difference, ...]
    layers: tuple[LayerChange, ...]
    unmatched_a: tuple[str, ...]
    unmatched_b: tuple[str, ...]
    typical: Mapping[str, Change]
    trends: Mapping[str, Trend]
    methods: tuple[MethodChange, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    memory: Mapping[str, Change]
    uses_unbiased: bool


MatchedBy = Literal["name", "shape"]
