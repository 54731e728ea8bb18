"""What a profile says about a model in the terms of the published settings: its kind and its size."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from subopt.profilers.record.profile import Profile

Measure: TypeAlias = Literal["perplexity", "loss"]

CONV_DIMENSIONS = 4  # out, in, height, width


def model_type(profile: Profile) -> str | None:
    """Return `language` for a model with a token embedding, `vision` for one with 2-d convolutions, else None."""
    if any(layer.module_type == "Embedding" for layer in profile.layers):
        return "language"
    if any(len(layer.shape) == CONV_DIMENSIONS for layer in profile.layers):
        return "vision"
    return None


def measure_of(profile: Profile) -> Measure:
    """Return what a gain is a share of: the perplexity of a language model, the loss of another."""
    return "perplexity" if model_type(profile) == "language" else "loss"


def tokens_per_step(profile: Profile, batch_size: int) -> int | None:
    """Return the tokens of a step at a batch size, from the profile's own batches; None where it did not count."""
    tokens = profile.settings.tokens_per_batch
    return None if tokens is None else round(tokens * batch_size / profile.settings.batch_size)


def trainable_parameters(profile: Profile) -> int:
    """Return the number of trained parameters, shared ones once."""
    return sum(math.prod(layer.shape) for layer in profile.layers if layer.role != "frozen")
