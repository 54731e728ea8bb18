"""What the beginning of training says about the gradients measured there."""

from __future__ import annotations

import math

import pytest

from subopt.profilers.record.profile import Losses, Spectrum, Spread
from subopt.recipes.evidence.start import (
    HighFirstLoss,
    OneDirection,
    SteepLoss,
    early_doubts,
    starts_too_high,
)

from ..advice_profile import layer, profile


def with_ranks(*ranks, losses=None, embedding=True):
    """A profile of matrices with these stable ranks."""

    def spectrum(rank):
        spread = Spread(mean=rank, min=rank, max=rank)
        return Spectrum(
            stable_rank=spread, effective_rank=spread, rank_at_energy={}, energy_at_rank={}
        )

    layers = [layer(f"w{i}", spectrum=spectrum(rank)) for i, rank in enumerate(ranks)]
    if embedding:
        table = layer("e", role="fallback").model_copy(update={"module_type": "Embedding"})
        layers.append(table)
    return profile(layers).model_copy(update={"losses": losses})


@pytest.mark.parametrize(
    ("factor", "is_high"), [(1.0, False), (1.45, False), (1.55, True), (12, True)]
)
def test_a_first_loss_is_high_from_one_and_a_half_times_guessing_on(factor, is_high):
    even = math.log(256)
    found = with_ranks(4.0, losses=Losses(first=factor * even, outputs=256))
    assert starts_too_high(found) is is_high
    assert early_doubts(found) == ((HighFirstLoss(factor * even, even, 256),) if is_high else ())


@pytest.mark.parametrize(
    ("losses", "embedding"),
    [
        (None, True),  # of an earlier version
        (Losses(first=60.0), True),  # the model's output is no tensor
        (Losses(first=60.0, outputs=1), True),
        (Losses(first=60.0, outputs=10), False),  # no language model: the loss may be of any scale
    ],
)
def test_nothing_is_said_where_guessing_is_not_known(losses, embedding):
    assert not starts_too_high(with_ranks(4.0, losses=losses, embedding=embedding))


def test_one_direction_is_that_of_the_typical_matrix():
    assert early_doubts(with_ranks(1.1, 1.2, 4.0)) == (OneDirection(2 / 3, 1.2),)
    assert early_doubts(with_ranks(1.1, 4.0, 4.0)) == ()
    assert early_doubts(with_ranks()) == ()


def test_a_loss_that_still_falls_steeply():
    falling = [5.0 * 0.95**step for step in range(20)]
    found = with_ranks(4.0, losses=Losses(first=5.0, run=falling))
    assert early_doubts(found) == (SteepLoss(5.0, falling[-1], 20),)
    level = [5.0, *[4.0 - 0.01 * step for step in range(19)]]
    assert early_doubts(with_ranks(4.0, losses=Losses(first=5.0, run=level))) == ()
    short = Losses(first=5.0, run=falling[:4])
    assert early_doubts(with_ranks(4.0, losses=short)) == ()
