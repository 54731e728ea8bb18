"""What a method is trained with: rate and options that a race of this very model found best, else the prior's."""

from __future__ import annotations

from dataclasses import dataclass

from subopt.optimizers import get_method
from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.profile import Contestant, MethodCost, Profile, Race, Trial

from ..plan.method_options import with_options
from ..prior.rates import BesideRate, bearable_decay, beside_rate, prior_rate
from ..prior.traits import Traits
from ..reason import Reason

# Trials of one method whose steps differ by no more than this went equally far: options change the time of a step.
_AS_FAR = 0.8


class RacedRate(Reason):
    """A learning rate is the best of those tried in the race on this model."""

    trials: int
    horizon_s: float
    device: str
    share: float | None = None  # of the run, which the trials had; None for short runs of their own


class RacedFallbackRate(Reason):
    """A learning rate is what the race on this model trained all parameters with that a method leaves alone."""


@dataclass(frozen=True, slots=True)
class KnownRate:
    """A peak learning rate, the decoupled weight decay beside it, and where the rate comes from."""

    lr: float
    weight_decay: float
    reason: Reason


def raced(profile: Profile, method: str) -> tuple[Race, Contestant] | None:
    """Return a method's entry in the profile's race, with the race.

    In races of earlier versions, which were short runs of their own, at the best setting of all its trials.

    Returns:
        The two; None where it was not raced, did not learn, or the model's file has changed since.
    """
    race = profile.race
    if race is None or race.target_sha256 != profile.target.sha256:
        return None
    entry = next((entry for entry in race.contestants if entry.method == method), None)
    if entry is None or entry.verdict == "diverged":
        return None
    best = _best_trial(race, method) if race.share is None else None
    if best is not None:
        entry = entry.model_copy(update={"lr": best.lr, "options": best.options})
    return race, entry


def _best_trial(race: Race, method: str) -> Trial | None:
    """Return the trial of the lowest loss among those that went about as far as any; None where none has a loss."""
    trials = [trial for trial in race.trials if trial.method == method and trial.loss is not None]
    furthest = max((trial.steps for trial in trials), default=0)
    far = [trial for trial in trials if trial.steps >= _AS_FAR * furthest]
    return min(far, key=lambda trial: trial.loss or 0.0, default=None)


def as_raced(profile: Profile, cost: MethodCost) -> MethodCost:
    """Return a row of the profile with the options that the race found best, its memory moved by what they take."""
    found = raced(profile, cost.method)
    if found is None:
        return cost
    settable = get_method(cost.method).defaults
    options = {
        key: value
        for key, value in found[1].options.items()
        if key in settable and cost.options.get(key) != value
    }
    return with_options(profile, cost, options)


def known_rate(profile: Profile, method: str, traits: Traits) -> KnownRate:
    """Return the rate to train a method with: the best that was measured on this model, else the prior's.

    A race's contestant has the best rate of its trials, so that none that was measured worse is written.
    """
    prior = prior_rate(method, traits)
    found = raced(profile, method)
    if found is None:
        return KnownRate(prior.lr, prior.weight_decay, prior.reason)
    race, entry = found
    raced_decay = entry.weight_decay  # a quotient of rates: digits beyond the third are rounding
    decay = prior.weight_decay if raced_decay is None else float(f"{raced_decay:.3g}")
    reason = RacedRate(entry.trials, race.horizon_seconds, race.device, race.share)
    return KnownRate(entry.lr, bearable_decay(entry.lr, decay), reason)


def fallback_rate(profile: Profile, method: str, traits: Traits) -> KnownRate | None:
    """Return AdamW's rate for what a method leaves alone; None for AdamW itself.

    The race's, where it trained this method beside it; else in proportion to the method's own rate, which is where the
    best rates of methods were found.
    """
    if method == BASELINE:
        return None
    decay = prior_rate(BASELINE, traits).weight_decay
    found = raced(profile, method)
    if found is not None and _trained_beside(*found):
        lr, reason = found[0].fallback_lr, RacedFallbackRate()
        return KnownRate(lr, bearable_decay(lr, decay), reason)
    own = known_rate(profile, method, traits).lr
    lr = beside_rate(method, own, traits)
    return KnownRate(lr, bearable_decay(lr, decay), BesideRate(float(f"{lr / own:.1g}")))


def _trained_beside(race: Race, entry: Contestant) -> bool:
    """Whether the race's fallback rate is that of this entry: the winner's is kept; early races had one for all."""
    return race.share is None or entry.method == race.contestants[0].method
