"""The gain to expect of a method before anything is measured: by regime, from independent comparisons and our own.

`gains.yaml` says where each number is from. A regime is a kind of run: fine-tuning, small models, small batches, ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

import yaml

from subopt.optimizers import get_method
from subopt.profilers.record.cost import BASELINE

from ..reason import Reason
from .traits import Measure, Traits

# What twice the steps, or half the tokens, are worth as a share of perplexity, where a regime does not say. Nguyen et
# al. 2025, section 5.2 and table 2: AdaDiag reaches Adam's final perplexity in 1/1.8 to 1/2 of the steps, and after all
# of them is 7.7 to 11.4 % below it.
GAIN_PER_DOUBLING = 0.10


class PriorGain(Reason):
    """The gain over the baseline that comparisons in this regime lead to expect, after equally many steps.

    Attributes:
        gain: A share of the loss measure.
        error: Its typical error, in the same unit.
        regime: Which comparisons these are, such as `small models`.
        measure: The loss measure.
    """

    gain: float
    error: float
    regime: str
    measure: Measure


def prior_gain(method: str, traits: Traits) -> PriorGain | None:
    """Return the gain to expect of a method; None for the baseline, and where nothing is known of it.

    Raises:
        OptionError: There is no such method.
    """
    name = get_method(method).name
    regime = _regime(traits)
    for group in regime["gains"]:
        if name in group["methods"]:
            gain = _at_size(group, traits.parameters)
            return PriorGain(gain, regime["error"], regime["name"], traits.measure)
    return None


def worth_of_doubling(traits: Traits) -> float:
    """Return what twice the steps are worth to such a run, as a share of the loss measure."""
    worth: float = _regime(traits).get("doubling", GAIN_PER_DOUBLING)
    return worth


def by_prior_gain(traits: Traits) -> list[str]:
    """Return the known methods, best first; of equals the baseline, then the first in the file."""
    gains = {BASELINE: 0.0}
    for group in _regime(traits)["gains"]:
        gains |= dict.fromkeys(group["methods"], _at_size(group, traits.parameters))
    return sorted(gains, key=lambda name: -gains[name])


def is_small_batch(traits: Traits) -> bool:
    """Whether the run is in a regime of small batches, in which no method has been seen to lead."""
    return "tokens_per_step_below" in _regime(traits)["when"]


def _regime(traits: Traits) -> Mapping[str, Any]:
    return next(regime for regime in _regimes() if _is_in(regime["when"], traits))


def _is_in(when: Mapping[str, Any], traits: Traits) -> bool:
    """Whether a run meets all of a regime's conditions; an unknown number of tokens is below nothing."""
    tokens = math.inf if traits.tokens_per_step is None else traits.tokens_per_step
    return (
        traits.fine_tunes >= when.get("fine_tunes", False)
        and when.get("kind") in {None, traits.kind}
        and traits.parameters < when.get("parameters_below", math.inf)
        and (
            tokens < when.get("tokens_per_step_below", math.inf)
            or "tokens_per_step_below" not in when
        )
    )


def _at_size(group: Mapping[str, Any], parameters: int) -> float:
    """Return a group's gain at a size: between the sizes named, along the logarithm; flat outside of them."""
    if "gain" in group:
        return float(group["gain"])
    points = sorted((float(size), float(gain)) for size, gain in group["sizes"].items())
    if parameters <= points[0][0]:
        return points[0][1]
    for (low, at_low), (high, at_high) in pairwise(points):
        if parameters <= high:
            share = math.log(parameters / low) / math.log(high / low)
            return at_low + share * (at_high - at_low)
    return points[-1][1]


@cache
def _regimes() -> list[dict[str, Any]]:
    text = resources.files(__package__).joinpath("gains.yaml").read_text(encoding="utf-8")
    regimes: list[dict[str, Any]] = yaml.safe_load(text)["regimes"]
    return regimes
