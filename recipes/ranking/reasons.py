"""What a row lacks, and what else a person should know of a method."""

from __future__ import annotations

from ..reason import Reason


class IsBaseline(Reason):
    """Every gain and overhead is against this method."""


class NoPrediction(Reason):
    """Nothing that a profile measures of gradients speaks about the method."""


class NoComparison(Reason):
    """No comparison of the method with the baseline is published."""


class NothingKnown(Reason):
    """Neither raced, nor predicted, nor published: the method ranks below those of which something is known."""


class UnknownTime(Reason):
    """Neither times nor FLOPs of the method are known."""


class LowRankLayers(Reason):
    """The method trains layers of low rank in the place of the model's; negative where these take more memory."""

    saved_bytes: int


class DoesNotFit(Reason):
    """The peak exceeds the budget."""

    excess_bytes: int


class MayNotFit(Reason):
    """The peak's interval exceeds the budget; None where unknown activations leave it open."""

    high_bytes: int | None
