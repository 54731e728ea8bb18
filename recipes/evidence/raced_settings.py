"""What a method is trained with: rate and options that a race of this very model found best, else the papers' rate."""

from __future__ import annotations

from dataclasses import replace

from subopt.optimizers import get_method
from subopt.profilers.record.profile import Contestant, MethodCost, Profile, Race

from ..plan.method_options import with_options
from ..prior.traits import model_kind, trainable_parameters
from ..reason import Reason
from .published import PublishedLr, published_lr


class RacedRate(Reason):
    """A learning rate is the best of those tried in the race on this model."""

    trials: int
    horizon_s: float
    device: str


class RacedFallbackRate(Reason):
    """A learning rate is what the race on this model trained all parameters with that a method leaves alone."""


def raced(profile: Profile, method: str) -> tuple[Race, Contestant] | None:
    """Return a method's entry in the profile's race, with the race.

    Returns:
        The two; None where it was not raced, did not learn, or the model's file has changed since.
    """
    race = profile.race
    if race is None or race.target_sha256 != profile.target.sha256:
        return None
    entry = next((entry for entry in race.contestants if entry.method == method), None)
    return None if entry is None or entry.verdict == "diverged" else (race, entry)


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


def known_rate(profile: Profile, method: str) -> PublishedLr:
    """Return a method's learning rate for the profile's model, and the reason for it."""
    rate = published_lr(method, trainable_parameters(profile), model_kind(profile))
    found = raced(profile, method)
    if found is None:
        return rate
    race, entry = found
    reason = RacedRate(entry.trials, race.horizon_seconds, race.device)
    return replace(rate, lr=entry.lr, reason=reason, tokens_per_step=None)
