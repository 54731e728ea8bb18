"""A question to the papers: how much did a method gain in the setting nearest to this model?

The numbers live in `sources/`, a file for each paper.
"""

from __future__ import annotations

import math
from enum import Enum

from subopt.profilers.record.cost import BASELINE

from ..reason import Reason
from .published_file import PublishedResult, load_evidence

__all__ = ["Certainty", "Published", "load_evidence", "published"]


class Certainty(Enum):
    """How near a published setting is to the model at hand; the value is the share of its gain to expect.

    The shares are a judgement, not a measurement: the less alike the settings, the closer to "no difference".
    """

    NEAR = 1.0
    MODERATE = 0.75
    FAR = 0.5


# "Near" and "moderate" mean the same kind of model, and at most this many times larger or smaller, both in parameters
# and in tokens per step: a small batch has noisier gradients, and bases found in noise gain less.
NEAR_RATIO = 2.0
MODERATE_RATIO = 10.0


# Of a gain printed by a method's own authors: their baselines are often weak. Independent reruns of AdaDiag's setting
# bring AdamW to where AdaDiag is.
AUTHORS_SHARE = 0.5


class Published(Reason):
    """The published result nearest to a model, its gain over the baseline, and how much of that to expect there."""

    result: PublishedResult
    gain: float
    certainty: Certainty

    @property
    def share(self) -> float:
        """The share of the gain to expect: by the distance of the setting, and half of what its own authors print."""
        return self.certainty.value * (1.0 if self.result.is_independent else AUTHORS_SHARE)

    @property
    def expected_gain(self) -> float:
        """The gain shrunk towards zero by what it is worth here."""
        return self.gain * self.share


def published(
    method: str, parameters: int, kind: str | None, tokens_per_step: int | None = None
) -> Published | None:
    """Return the published comparison of a method with the baseline that is nearest to a model; None without one.

    The same kind of model comes before the same size; sizes are compared by their ratio.

    Args:
        method: Method id.
        parameters: Number of trainable parameters of the model at hand.
        kind: `language`, `vision`, ... or None where it could not be told.
        tokens_per_step: Tokens of one optimizer step there; it only matters for how certain the answer is.
    """
    if method == BASELINE:
        return None
    known = [(r, r.gain) for r in load_evidence().results if r.method == method]
    compared = [(result, gain) for result, gain in known if gain is not None]
    if not compared:
        return None
    result, gain = min(
        compared,
        key=lambda item: (_distance(item[0], parameters, kind), not item[0].is_independent),
    )
    if result.kind != kind:
        return Published(result, gain, Certainty.FAR)
    return Published(result, gain, _certainty(result, parameters, tokens_per_step))


def _distance(found: PublishedResult, parameters: int, kind: str | None) -> float:
    """Log size ratio, plus more than any size ratio can make up where the kind differs."""
    distance = math.log(_ratio(found.parameters, parameters))
    return distance if kind in {None, found.kind} else distance + 1000.0


def _certainty(result: PublishedResult, parameters: int, tokens_per_step: int | None) -> Certainty:
    """How near a result for the same kind of model is."""
    ratio = _ratio(result.parameters, parameters)
    if result.tokens_per_step is not None and tokens_per_step is not None:
        ratio = max(ratio, _ratio(result.tokens_per_step, tokens_per_step))
    if ratio <= NEAR_RATIO:
        return Certainty.NEAR
    return Certainty.MODERATE if ratio <= MODERATE_RATIO else Certainty.FAR


def _ratio(one: int, other: int) -> float:
    """How many times the larger is the smaller."""
    return max(one, other) / max(min(one, other), 1)
