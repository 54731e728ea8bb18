"""What the beginning of training says about the gradients that were measured there: often, little.

Gradients of weights that have barely moved have nearly one direction in every layer, whatever the data; and a loss that
starts far above that of guessing evenly, or still falls steeply, is spent on mending the initial weights. What was
measured then is not what the optimizer will meet, and no gain is predicted from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean, median

from subopt.profilers.record.profile import Losses, Profile

from ..prior.traits import model_kind
from ..reason import Reason

# A first loss so many times that of guessing evenly is not one of ordinary initial weights, which start at 1.0 to 1.1.
HIGH_FIRST_LOSS = 1.5
# A matrix whose gradient's stable rank is below this has one direction. Ordinary layers in training have from 3 on.
ONE_DIRECTION = 1.5
# Over the second half of the short run, a fall by this share of the loss is steep.
STEEP_FALL = 0.1
LEAST_STEPS = 8  # of a short run whose halves can be compared


class EarlyDoubt(Reason):
    """The base of what makes gradients say little yet."""


class HighFirstLoss(EarlyDoubt):
    """The first loss is far above the logarithm of the number of classes, which guessing evenly gives."""

    loss: float
    even_loss: float
    classes: int


class OneDirection(EarlyDoubt):
    """The gradients of this share of the measured matrices, by number, have nearly one direction."""

    share: float
    stable_rank: float


class SteepLoss(EarlyDoubt):
    """The loss still fell steeply at the end of the short run."""

    first: float
    last: float
    steps: int


def early_doubts(profile: Profile) -> tuple[EarlyDoubt, ...]:
    """Return why the measured gradients say little yet; nothing where they may say something."""
    return tuple(_early_doubts(profile))


def starts_too_high(profile: Profile) -> bool:
    """Whether the first loss is so high that no method can be told from another before the weights are mended."""
    return any(isinstance(doubt, HighFirstLoss) for doubt in early_doubts(profile))


def _early_doubts(profile: Profile) -> Iterator[EarlyDoubt]:
    losses = profile.losses
    if losses is not None:
        classes = losses.outputs if model_kind(profile) == "language" else None
        if (
            classes is not None
            and classes > 1
            and losses.first > HIGH_FIRST_LOSS * math.log(classes)
        ):
            yield HighFirstLoss(losses.first, math.log(classes), classes)
    ranks = [layer.spectrum.stable_rank.mean for layer in profile.layers if layer.spectrum]
    if ranks and median(ranks) < ONE_DIRECTION:
        share = sum(rank < ONE_DIRECTION for rank in ranks) / len(ranks)
        yield OneDirection(share, median(ranks))
    if losses is not None and _is_steep(losses):
        yield SteepLoss(losses.first, losses.run[-1], len(losses.run))


def _is_steep(losses: Losses) -> bool:
    """Whether the last quarter of the short run's losses lies well below the quarter before it."""
    if len(losses.run) < LEAST_STEPS:
        return False
    quarter = len(losses.run) // 4
    before, last = mean(losses.run[-2 * quarter : -quarter]), mean(losses.run[-quarter:])
    return before > 0 and last < (1 - STEEP_FALL) * before
