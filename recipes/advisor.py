"""From a profile and a memory budget to a ranked, explained table of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from subopt.errors import UsageError
from subopt.optimizers import METHODS, get_method
from subopt.profilers.schema import MethodCost, Profile

from .advice import Advice, Change, Objective, Row
from .budget import DeviceKind, Fit, read_budget
from .calibrated import calibration_sentences
from .changes import changed_options, changes_that_fit
from .evidence import load_evidence
from .peaks import largest_batch, peak_at
from .proposal import to_recipe
from .ranking import ranked
from .rows import make_row
from .sentences import (
    budget_sentence,
    data_sentence,
    memory_sentence,
    refusal_sentences,
    unavailable_sentence,
)
from .verdict import certainty_sentence, choice_sentences

__all__ = ["Advice", "Change", "Row", "recommend", "to_recipe"]


def recommend(
    profile: Profile,
    *,
    budget_bytes: int,
    objective: Objective = "quality",
    batch_size: int | Literal["auto"] | None = None,
    methods: Sequence[str] | None = None,
    device: DeviceKind = "cuda",
) -> Advice:
    """Rank the profile's methods under a memory budget and choose one.

    The rule is `ranking.score` and `ranking.sort_key`. The result depends on nothing but the arguments.

    Args:
        profile: What `subopt profile` measured.
        budget_bytes: Memory of the device to train on.
        objective: `quality`: best expected result at equal wall time; `speed`: cheapest step among the methods not
            expected to be worse than AdamW; `memory`: smallest peak.
        batch_size: Examples of one micro-batch; the profile's own by default. `auto`: the largest power of two at
            which the method that would be chosen at batch size 1 fits.
        methods: Method ids to choose from; all of the profile by default.
        device: Kind of the memory: `cuda` takes context and allocator reserve off the budget.

    Raises:
        OptionError: An unknown method.
        UsageError: The profile lacks what the question needs: method costs, or activations for another batch size.
    """
    budget = read_budget(budget_bytes, device)
    unavailable = _unavailable(profile, methods)
    costs, others = _split(profile, methods, without=dict(unavailable))
    usable = budget.usable_bytes
    if batch_size == "auto":
        batch_size = _auto_batch(profile, costs, objective, usable)
    elif batch_size is None:
        batch_size = profile.settings.batch_size
    if batch_size < 1:
        raise UsageError(f"a batch size of {batch_size} trains nothing", "give 1 or more")
    rows = _rows(profile, costs, objective, batch_size, usable)
    chosen = next((row for row in rows if row.is_recommendable), None)
    changes: tuple[Change, ...] = ()
    if chosen is None:
        changes = changes_that_fit(profile, rows, others, budget, batch_size, device)
        said = refusal_sentences(rows, changes)
    else:
        said = choice_sentences(chosen, rows, objective, profile)
    filled = memory_sentence(profile)
    sure = None if chosen is None else certainty_sentence(profile, chosen)
    needs = None if chosen is None else data_sentence(profile)
    absent = unavailable_sentence(unavailable)
    earlier = calibration_sentences(profile.calibration)
    extras = (text for text in (filled, sure, needs, absent, *earlier) if text)
    sentences = (*said, *extras, budget_sentence(budget))
    return Advice(objective, budget, batch_size, rows, chosen, sentences, changes, unavailable)


def _unavailable(profile: Profile, methods: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the methods, of those asked for, that need what is not installed, and how to install it."""
    options = {cost.method: changed_options(cost) for cost in profile.methods}
    found = []
    for name in METHODS if methods is None else methods:
        extra = get_method(name).missing_extra(options.get(name))
        if extra is not None:
            found.append((name, f"pip install 'subopt[{extra}]'"))
    return tuple(found)


def _split(
    profile: Profile, methods: Sequence[str] | None, *, without: Mapping[str, str]
) -> tuple[list[MethodCost], list[MethodCost]]:
    """Return the profile's rows that were asked for, and the rest; none of the methods that are unavailable."""
    if not profile.methods:
        raise UsageError(
            "the profile holds no method costs", "make it again with: subopt profile model.py"
        )
    usable = [cost for cost in profile.methods if cost.method not in without]
    if methods is None:
        return usable, []
    wanted = {get_method(name).name for name in methods}
    for name in wanted & without.keys():
        raise UsageError(f"{name} needs a package that is not installed", without[name])
    missing = wanted - {cost.method for cost in profile.methods}
    if missing or not wanted:
        raise UsageError(
            f"the profile holds no costs of {', '.join(sorted(missing)) or 'the methods asked for'}",
            "it has " + ", ".join(cost.method for cost in profile.methods),
        )
    return (
        [cost for cost in usable if cost.method in wanted],
        [cost for cost in usable if cost.method not in wanted],
    )


def _auto_batch(
    profile: Profile, costs: Sequence[MethodCost], objective: Objective, usable_bytes: int
) -> int:
    """Return the largest power of two at which the best method at batch size 1 still fits; 1 where none does."""
    best = _rows(profile, costs, objective, 1, usable_bytes)[0].cost

    def fits(size: int) -> bool:
        return peak_at(profile, best, size).fits(usable_bytes) is Fit.YES

    return largest_batch(fits) or 1


def _rows(
    profile: Profile,
    costs: Sequence[MethodCost],
    objective: Objective,
    batch_size: int,
    usable_bytes: int,
) -> tuple[Row, ...]:
    """Return the ranked rows at one batch size."""
    baseline = load_evidence().baseline
    base = next((cost for cost in profile.methods if cost.method == baseline), None)
    rows = [make_row(profile, cost, base, batch_size, usable_bytes) for cost in costs]
    return ranked(rows, objective, usable_bytes)
