"""The learning rate to start from, before anything is measured: a power law with few constants.

    log10 lr = log10 a - w log10(width / 256) - s log10(steps / 1000) + b log10(tokens a step / 8192) [+ fine-tuning]

with `a` of the method, w of its way of stepping (see `rates.yaml`), s, b and the fine-tuning factor of all. What a
method leaves alone is trained by AdamW at the method's rate times a factor, that of the two usual rates. The token
term counts for language models alone, from 1,024 tokens on. The rate is clipped, then rounded to the half-decade grid
1e-3, 3e-3, 1e-2, ...
`benchmarks/fit_rates.py` fits the constants and says how far off they are on tasks that they were not fitted to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from subopt.optimizers import get_method

from ..reason import Reason
from .traits import Traits

# Beyond these a recipe's rate is a mistake, whatever a law says.
LOWEST, HIGHEST = 1e-6, 1.0

# Steps of fewer tokens want no lower rate: at 260 to 520 tokens the best ones are those of this many.
LEAST_TOKENS = 1024

# Decoupled weight decay multiplies the weights by 1 - lr wd in every step. The most that we found in published, tuned
# runs is 0.0008 (Muon at 0.008 with 0.1, of Wen et al. 2025). At 0.001 weights without a gradient halve in 700 steps.
MOST_DECAY_A_STEP = 1e-3


class FittedRate(Reason):
    """A rate is the prior's, fitted to the method's best rates on so many tasks."""

    tasks: int
    decades_error: float


class RelatedRate(Reason):
    """A rate is the prior's for a related method: no task has this one's own best rate."""

    method: str
    like: str
    decades_error: float


class BesideRate(Reason):
    """A rate of what a method leaves alone is in proportion to the method's own: `times` it."""

    times: float


class HeavyDecay(Reason):
    """The weight decay takes this share off the weights in every step at the peak rate: too much to learn against."""

    lr: float
    weight_decay: float
    share: float
    bearable: float


@dataclass(frozen=True, slots=True)
class PriorRate:
    """A learning rate to start from.

    Attributes:
        lr: Peak learning rate, on the half-decade grid.
        decades_error: The typical error of log10 lr on tasks that the constants were not fitted to.
        weight_decay: Decoupled weight decay beside it, small enough for the rate.
        reason: Where it comes from.
        fallback_lr: AdamW's rate beside it, for what the method leaves alone.
    """

    lr: float
    decades_error: float
    weight_decay: float
    reason: Reason
    fallback_lr: float


def prior_rate(method: str, traits: Traits) -> PriorRate:
    """Return the rate and weight decay that a run with these traits should start with.

    Raises:
        OptionError: There is no such method.
    """
    constants, (own, tasks) = _constants(), _of_method(get_method(method).name)
    exponents = constants["exponents"]
    decades = math.log10(own["lr"])
    decades -= own.get("width", exponents["width"]) * _log_ratio(traits.width, "width")
    decades -= exponents["steps"] * _log_ratio(traits.steps, "steps")
    if traits.tokens_per_step is not None and traits.kind == "language":
        tokens = max(traits.tokens_per_step, LEAST_TOKENS)
        decades += exponents["tokens"] * _log_ratio(tokens, "tokens")
    if traits.fine_tunes:
        decades += _fine_tuning(constants["fine_tuning"], traits.parameters)
    lr = on_grid(min(max(10**decades, LOWEST), HIGHEST))
    error = constants["decades_error"]
    reason: Reason = FittedRate(tasks, error)
    if "like" in own:
        error = constants["decades_error_of_related"]
        reason = RelatedRate(method, own["like"], error)
    decay = constants["weight_decay"].get(traits.kind, 0.0)
    beside = beside_rate(method, lr, traits)
    return PriorRate(lr, error, bearable_decay(lr, decay), reason, beside)


def beside_rate(method: str, lr: float, traits: Traits) -> float:
    """Return AdamW's rate, to one digit, for what a method leaves alone at its own rate `lr`, from wherever that is.

        lr * fallback * (width / 256)^(w_method - w_adamw)

    `fallback` of the method, w the exponents of the two: where AdamW's good rate falls faster with the width, so does
    its share of the method's.
    """
    own, _ = _of_method(get_method(method).name)
    usual = _constants()["exponents"]["width"]
    decades = (own.get("width", usual) - usual) * _log_ratio(traits.width, "width")
    beside = lr * own.get("fallback", 1.0) * 10**decades
    return float(f"{min(max(beside, LOWEST), HIGHEST):.0e}")


def _fine_tuning(constants: dict[str, float], parameters: int) -> float:
    """Return the decades that fine-tuning is below training from scratch: more for larger models."""
    tenfolds = math.log10(max(parameters, 1) / constants["parameters"])
    return constants["decades"] + constants["decades_per_tenfold"] * max(tenfolds, 0.0)


def on_grid(lr: float) -> float:
    """Return the nearest of 1e-3, 3e-3, 1e-2, ..., by ratio."""
    exponent, upper = divmod(round(2 * math.log10(lr)), 2)
    return float(f"{3 if upper else 1}e{exponent}")


def bearable_decay(lr: float, weight_decay: float) -> float:
    """Return a weight decay that shrinks the weights by no more than `MOST_DECAY_A_STEP` at this rate."""
    if not too_much_decay(lr, weight_decay):
        return weight_decay
    most = MOST_DECAY_A_STEP / lr
    digit = 10.0 ** math.floor(math.log10(most) + 1e-9)
    return float(f"{math.floor(most / digit + 1e-9) * digit:.1g}")


def heavy_decay(lr: float, weight_decay: float) -> HeavyDecay | None:
    """Return what is wrong with a weight decay at this peak rate, and the most that it bears; None where nothing is."""
    if not too_much_decay(lr, weight_decay):
        return None
    return HeavyDecay(lr, weight_decay, lr * weight_decay, bearable_decay(lr, weight_decay))


def too_much_decay(lr: float, weight_decay: float) -> bool:
    """Whether the decay takes more off the weights in a step than any published, tuned run does."""
    return lr * weight_decay > MOST_DECAY_A_STEP * (1 + 1e-9)


@cache
def _constants() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("rates.yaml").read_text(encoding="utf-8")
    constants: dict[str, Any] = yaml.safe_load(text)
    return constants


def _of_method(method: str) -> tuple[dict[str, Any], int]:
    """Return a method's constants, a relative's with its own factor where it has none, and the tasks behind them."""
    methods = _constants()["methods"]
    own = methods[method]
    if "like" not in own:
        return own, own["tasks"]
    relative = methods[own["like"]]
    return {**relative, **own, "lr": relative["lr"] * own.get("times", 1.0)}, relative["tasks"]


def _log_ratio(value: float, name: str) -> float:
    return math.log10(max(value, 1) / _constants()["reference"][name])
