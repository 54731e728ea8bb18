"""Who takes part in a race, and at which learning rate each begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from subopt.errors import UsageError
from subopt.optimizers import METHODS, get_method
from subopt.profilers.record.base import Record
from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.race import LeftOut, OptionValue, Rate

from ..prior.portfolio import portfolio
from ..prior.rates import prior_rate
from ..prior.traits import Traits
from .rate_grid import HIGHEST, LOWEST, within
from .source import RaceSource


class Candidate(Record):
    """A method at the start: its options where they differ from the defaults, and the rate that the others lie around.

    `fallback_lr` trains, at `start_lr`, what the method leaves alone; at another rate both move together. None where it
    trains everything itself. `weight_decay` is that of the start too (see `setting`). `steps` are those of a whole run.
    """

    method: str
    options: dict[str, OptionValue] = Field(default_factory=dict)
    start_lr: Annotated[float, Field(ge=LOWEST, le=HIGHEST)]
    fallback_lr: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    steps: Annotated[int, Field(ge=1, le=10**12)]

    def setting(self, lr: float) -> Setting:
        """Return the method at another rate.

        What is left alone is trained at a rate that moves in proportion, and the share of a weight that decays in a
        step, lr * weight_decay, stays what it is: so rates are compared, and not decays.
        """
        factor = lr / self.start_lr
        return Setting(
            method=self.method,
            lr=lr,
            fallback_lr=None if self.fallback_lr is None else within(self.fallback_lr * factor),
            weight_decay=min(self.weight_decay / factor, 1.0),
        )


class Setting(Record):
    """A method at one learning rate: one run of the race."""

    method: str
    lr: Rate
    fallback_lr: Rate | None = None
    weight_decay: float = 0.0

    @property
    def name(self) -> str:
        """What its folder is called, such as `soap-0.01`."""
        return f"{self.method}-{self.lr:g}"


def methods_of(
    source: RaceSource, traits: Traits, asked: Sequence[str] | None
) -> tuple[list[str], list[LeftOut]]:
    """Return the methods that could race, in the order in which a budget buys them, and those that cannot.

    The recipe's own comes first: with the least budget it is the only one. Those asked for follow it; or else AdamW
    and the prior's portfolio, of what fits by the profile.

    Raises:
        OptionError: An unknown method.
        UsageError: A method that was asked for needs a package that is not installed.
    """
    own, known = source.recipe.optimizer.method, source.options
    if asked is not None:
        names = [get_method(name).name for name in asked]
    else:
        fitting = list(METHODS) if known is None else list(known)
        names = [*(name for name in [BASELINE] if name in fitting), *portfolio(traits, fitting)]
    left_out, able = [], []
    for name in dict.fromkeys([own, *names]):
        extra = get_method(name).missing_extra((known or {}).get(name))
        if extra is None:
            able.append(name)
            continue
        reason = f"needs a package that is not installed: pip install 'subopt[{extra}]'"
        if asked is not None or name == own:
            raise UsageError(f"{name} {reason}")
        left_out.append(LeftOut(method=name, reason=reason))
    return able, left_out


def make_candidate(source: RaceSource, traits: Traits, method: str) -> Candidate:
    """Return a method as it enters the race: the recipe's own as the recipe has it, another at the prior's rate."""
    own = source.recipe.optimizer
    if method == own.method:
        return Candidate(
            method=method,
            options=dict(own.options),
            start_lr=within(own.lr),
            fallback_lr=own.fallback.lr,
            weight_decay=own.weight_decay,
            steps=traits.steps,
        )
    rate = prior_rate(method, traits)
    is_baseline = method == BASELINE
    return Candidate(
        method=method,
        options=(source.options or {}).get(method, {}),
        start_lr=rate.lr,
        fallback_lr=None if is_baseline else rate.fallback_lr,
        weight_decay=rate.weight_decay,
        steps=traits.steps,
    )
