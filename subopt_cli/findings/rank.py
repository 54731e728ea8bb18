"""Which rank, which source of a basis and which period between refreshes the gradients support."""

from __future__ import annotations

from math import ceil
from statistics import mode
from typing import TYPE_CHECKING

from ..text import percent, plural
from .common import (
    batches_seen,
    captured_share,
    measured_layers,
    median_of,
    needed_share,
    short_side,
    training_steps,
)
from .subspaces import TypicalLife, sources, typical_lives

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile

# Where the words change. They describe, they decide nothing: the advice has its own rules.
# A basis of r directions and its two moments take 3 m r numbers of a square layer: at a third of the short side as
# many as one moment of all weights takes, at two thirds as many as AdamW keeps.
LOW_RANK = 1 / 3
FULL_RANK = 2 / 3
# Of the energy, a choice: medians over the few bases of a short run are no finer.
CLEAR_POINTS = 0.05
HALF = 0.5  # signal share under which more of one batch's gradient is noise than not


def rank_sentence(profile: Profile) -> str | None:
    """Return what the spectra and the subspaces' lives say; None where there is no spectrum."""
    layers = measured_layers(profile)
    needed = median_of([needed_share(layer) for layer in layers])
    if needed is None:
        return None
    clauses = [_rank(profile, needed), *_period(profile), _noise(profile)]
    return f"Rank and period: {'; '.join(clause for clause in clauses if clause)}{caveat(profile)}."


def spread_line(profile: Profile) -> str | None:
    """Return how few directions hold the typical layer's gradient; None where there is no spectrum."""
    needed = median_of([needed_share(layer) for layer in measured_layers(profile)])
    if needed is None:
        return None
    return f"{percent(needed)} of the typical layer's directions hold 95% of its gradient"


def _rank(profile: Profile, needed: float) -> str:
    layers = measured_layers(profile)
    less = median_of([needed_share(layer, "0.90") for layer in layers])
    ninety = f", {percent(less)} hold 90%" if less is not None else ""
    if needed <= LOW_RANK:
        side = mode(short_side(layer.shape) for layer in layers)
        verdict = (
            f"so a rank of about {percent(needed)} ({ceil(needed * side)} of {side}) makes sense"
        )
    elif needed < FULL_RANK:
        verdict = "so a low rank loses some of it"
    else:
        verdict = "so no low rank holds it"
    text = f"{spread_line(profile)}{ninety}, {verdict}"
    kept = median_of([captured_share(layer, profile.settings.rank) for layer in layers])
    if kept is None or _life(profile) is not None:
        return text
    return f"{text}, and {rank_text(profile.settings.rank)} keeps {percent(kept)}"


def rank_text(rank: int | float) -> str:
    """Return a rank as it was asked for."""
    return f"rank {rank}" if isinstance(rank, int) else f"rank {percent(rank)}"


def _life(profile: Profile) -> TypicalLife | None:
    """Return the life of the source that holds most at the end, the first one unless another is clearly better."""
    lives = typical_lives(profile)
    if not lives:
        return None
    best = max(lives, key=lambda life: life.frozen or 0.0)
    is_clear = (best.frozen or 0.0) >= (lives[0].frozen or 0.0) + CLEAR_POINTS
    return best if is_clear or lives[0].is_noise else lives[0]


def _period(profile: Profile) -> list[str]:
    life = _life(profile)
    if life is None or life.frozen is None:
        return []
    if life.is_noise:
        return [f"no basis at {rank_text(profile.settings.rank)} outlives its own batch"]
    is_first = life.source == sources(profile)[0]
    source = f"the {life.source}'s" if is_first else f"the steadier {life.source}'s"
    period = f"every {life.period}" if life.period is not None else f"after {life.lag} or more"
    return [
        f"{source} {rank_text(profile.settings.rank)} basis holds {percent(life.frozen)} after {life.lag} steps: "
        f"refresh {period}{_tracking(life)}"
    ]


def _tracking(life: TypicalLife) -> str:
    """Return what following the basis holds in the long run, against what is left when a refresh is due."""
    if life.tracked is None or life.at_refresh is None:
        return ""
    gain = life.tracked - life.at_refresh
    if gain <= -CLEAR_POINTS:
        return f" rather than follow it by PCA ({percent(life.tracked)})"
    better = "better " if gain >= CLEAR_POINTS else ""
    return f", or {better}follow it by PCA ({percent(life.tracked)})"


def _noise(profile: Profile) -> str | None:
    noises = [layer.noise for layer in measured_layers(profile) if layer.noise]
    signal = median_of([noise.signal_share for noise in noises])
    if signal is None or signal >= HALF:
        return None
    needed = median_of([noise.batches_needed for noise in noises])
    text = f"one batch is {percent(min(1.0, 1 - signal))} noise"
    return f"{text}, the mean of {ceil(needed)} half" if needed is not None else text


def caveat(profile: Profile) -> str:
    """Return what the numbers rest on, as the end of a sentence."""
    steps, batches = training_steps(profile), batches_seen(profile)
    when = f"at step {steps}" if steps else "before any training"
    data = "made-up " if profile.target.synthetic_data else ""
    return f" (as far as {plural(batches, f'{data}batch', f'{data}batches')} {when} can tell)"
