"""Who takes part in a race, with which options, and at which learning rate its search begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import nn

from subopt.errors import UsageError
from subopt.optimizers import METHODS, get_method
from subopt.profilers.record.base import Record
from subopt.profilers.record.race import LeftOut, OptionValue, Rate

from ..advice.advisor import recommend
from ..evidence.published import load_evidence
from ..plan.method_options import changed_options
from ..prior.portfolio import portfolio
from ..prior.rates import prior_rate
from ..prior.traits import traits_of_model
from .source import RaceSource

# A budget that everything fits: the ranking is asked for without one.
_ANY_BYTES = 2**50


class Candidate(Record):
    """A method at the start, its options where they differ from the defaults, and the rate its search begins at."""

    method: str
    options: dict[str, OptionValue] = Field(default_factory=dict)
    start_lr: Rate


def candidates_of(
    source: RaceSource, model: nn.Module, methods: Sequence[str] | None
) -> tuple[list[Candidate], list[LeftOut]]:
    """Return the methods of a race, the baseline first and then the most promising, and those that cannot take part.

    Those asked for, in that order; else the profile's, as `subopt recommend` ranks them, and with a budget those that
    fit it; else the recipe's own and all others, the most promising first.

    Raises:
        OptionError: An unknown method.
        UsageError: A method that was asked for needs a package that is not installed, or there is nothing to race.
    """
    baseline = load_evidence().baseline
    known = _profiled(source)
    if methods is not None:
        names = [get_method(name).name for name in methods]
    elif known:
        names = list(known)
    else:
        names = _by_prior(model, source)
    names = list(dict.fromkeys([baseline, *names]))
    left_out = []
    for name in names:
        extra = get_method(name).missing_extra(known.get(name))
        if extra is not None:
            reason = f"needs a package that is not installed: pip install 'subopt[{extra}]'"
            if methods is not None:
                raise UsageError(f"{name} {reason}")
            left_out.append(LeftOut(method=name, reason=reason))
    absent = {item.method for item in left_out}
    candidates = [_candidate(name, source, known, model) for name in names if name not in absent]
    if len(candidates) < 2:
        raise UsageError(
            f"there is nothing to race {baseline} against",
            "name other methods with --methods, or a larger --gpu-mem",
        )
    return candidates, left_out


def _profiled(source: RaceSource) -> dict[str, dict[str, Any]]:
    """Return the options of the profile's methods, best ranked first; with a budget, of those that fit it."""
    if source.profile is None or not source.profile.methods:
        return {}
    advice = recommend(source.profile, budget_bytes=source.budget_bytes or _ANY_BYTES)
    return {
        row.method: changed_options(row.cost)
        for row in advice.rows
        if source.budget_bytes is None or row.is_recommendable
    }


def _by_prior(model: nn.Module, source: RaceSource) -> list[str]:
    traits = traits_of_model(model, steps=source.recipe.schedule.steps)
    few = portfolio(traits, list(METHODS))
    others = [*few, *(name for name in METHODS if name not in few)]
    return [source.recipe.optimizer.method, *others] if source.is_tuned else others


def _candidate(
    name: str, source: RaceSource, known: Mapping[str, Mapping[str, Any]], model: nn.Module
) -> Candidate:
    own = source.recipe.optimizer
    if source.is_tuned and own.method == name:
        return Candidate(method=name, options=dict(own.options), start_lr=own.lr)
    traits = traits_of_model(model, steps=source.recipe.schedule.steps)
    rate = prior_rate(name, traits)
    return Candidate(method=name, options=dict(known.get(name, {})), start_lr=rate.lr)
