"""The learning rate that is known for a method: what a race on this model found best, or what papers trained with."""

from __future__ import annotations

from dataclasses import replace

from subopt.profilers.schema import Profile

from .published import LearningRate, published_lr
from .raced_settings import raced, raced_rate_reason
from .traits import model_kind, trainable_parameters


def known_rate(profile: Profile, method: str) -> LearningRate:
    """Return a method's learning rate for the profile's model, and the reason for it."""
    rate = published_lr(method, trainable_parameters(profile), model_kind(profile))
    found = raced(profile, method)
    if found is None:
        return rate
    return replace(rate, lr=found[1].lr, reason=raced_rate_reason(*found), tokens_per_step=None)
