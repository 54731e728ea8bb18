"""Two questions to the papers: how much did a method gain in the setting nearest to this model, and at what rate.

The numbers live in `published.yaml` next to this file, each with its paper and table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from ..reason import Reason
from .published_file import PublishedRate, PublishedResult, load_evidence

__all__ = ["Certainty", "Published", "PublishedLr", "load_evidence", "published", "published_lr"]


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


class Published(Reason):
    """The published result nearest to a model, its gain over the baseline, and how much of that to expect there."""

    result: PublishedResult
    gain: float
    certainty: Certainty

    @property
    def expected_gain(self) -> float:
        """The gain shrunk towards zero with the distance of the setting."""
        return self.gain * self.certainty.value


class NearestRate(Reason):
    """A learning rate is the published one for the nearest setting."""

    rate: PublishedRate


class RelativeToNearest(NearestRate):
    """A learning rate is a published multiple of the baseline's, which is the one for the nearest setting."""

    factor: float
    source: str


class NoPublishedRate(NearestRate):
    """No learning rate of the method is published for such models: the baseline's is a starting point."""

    method: str


@dataclass(frozen=True, slots=True)
class PublishedLr:
    """A learning rate to start from and the reason for it.

    Attributes:
        lr: Peak learning rate.
        reason: Where it comes from.
        weight_decay: The decoupled weight decay used with it; None where the paper does not say.
        tokens_per_step: Tokens of one optimizer step in that setting; None where the paper does not say.
    """

    lr: float
    reason: Reason
    weight_decay: float | None = None
    tokens_per_step: int | None = None


def published(
    method: str, parameters: int, kind: str | None, tokens_per_step: int | None = None
) -> Published | None:
    """Return the published comparison with the baseline that is nearest to a model, or None where there is none.

    The same kind of model comes before the same size; sizes are compared by their ratio.

    Args:
        method: Method id.
        parameters: Number of trainable parameters of the model at hand.
        kind: `language`, `vision`, ... or None where it could not be told.
        tokens_per_step: Tokens of one optimizer step there; it only matters for how certain the answer is.
    """
    known = [(r, r.gain) for r in load_evidence().results if r.method == method]
    compared = [(result, gain) for result, gain in known if gain is not None]
    if not compared:
        return None
    result, gain = min(compared, key=lambda item: _distance(item[0], parameters, kind))
    if result.kind != kind:
        return Published(result, gain, Certainty.FAR)
    return Published(result, gain, _certainty(result, parameters, tokens_per_step))


def published_lr(method: str, parameter_count: int, kind: str | None = None) -> PublishedLr:
    """Return the learning rate a method was trained with at the nearest size, and the reason.

    A method without a published rate for this kind of model gets a published multiple of the baseline's rate, or else
    the baseline's rate itself as a starting point, and the reason says so.

    Args:
        method: Method id.
        parameter_count: Number of trainable parameters of the model at hand.
        kind: `language`, `vision`, or None where it could not be told.
    """
    evidence = load_evidence()
    rate = _nearest_rate(method, parameter_count, kind)
    if rate is not None and kind in {None, rate.kind}:
        return PublishedLr(rate.lr, NearestRate(rate), rate.weight_decay, rate.tokens_per_step)
    base = _nearest_rate(evidence.baseline, parameter_count, kind)
    if base is None:
        raise LookupError(
            f"published.yaml holds no learning rate for its baseline {evidence.baseline}"
        )
    lr, relative = base.lr, evidence.relative_rates.get(method)
    reason: Reason = NoPublishedRate(base, method)
    if relative is not None:
        lr = float(f"{base.lr * relative.factor:.3g}")
        reason = RelativeToNearest(base, relative.factor, relative.source)
    return PublishedLr(lr, reason, base.weight_decay, base.tokens_per_step)


def _nearest_rate(method: str, parameters: int, kind: str | None) -> PublishedRate | None:
    rates = [rate for rate in load_evidence().rates if method in rate.methods]
    return min(rates, key=lambda rate: _distance(rate, parameters, kind), default=None)


def _distance(found: PublishedResult | PublishedRate, parameters: int, kind: str | None) -> float:
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
