"""What would make training fit when nothing does, the smallest change first; every one is checked to fit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch

from subopt.optimizers import Method, get_method
from subopt.profilers.architectures import WeightShape
from subopt.profilers.costs import state_bytes, weight_bytes_saved
from subopt.profilers.schema import MethodCost, Profile
from subopt.units import format_bytes

from .advice import Change, Row
from .budget import Budget, DeviceKind, Fit, smallest_budget
from .peaks import PeakAt, largest_batch, peak_at
from .schema import OptionValue

_PARAMETER_DTYPES = {"fp32": torch.float32, "bf16-mixed": torch.float32, "bf16": torch.bfloat16}

OptionKind = Literal["state dtype", "rank"]
OptionChanges = Callable[[MethodCost], Iterator[dict[str, Any]]]

# A rank is halved at most this often, and never below this many directions.
_HALVINGS = 4
_SMALLEST_RANK = 4
_SMALLEST_SHARE = 1 / 64


def changes_that_fit(
    profile: Profile,
    rows: Sequence[Row],
    others: Sequence[MethodCost],
    budget: Budget,
    batch_size: int,
    device: DeviceKind,
) -> tuple[Change, ...]:
    """Return what would make training fit, the smallest change first.

    A smaller micro-batch with accumulation leaves the mathematics alone; then come another method of the profile
    than those asked for, optimizer state in bf16, and a lower rank; a larger budget always works and comes last.

    Args:
        profile: The profile.
        rows: The ranked rows, none of which fits.
        others: Methods of the profile that were not asked for.
        budget: The budget.
        batch_size: Examples of one micro-batch.
        device: What kind of memory the budget is.
    """
    found = [
        *_smaller_batch(profile, rows, budget, batch_size),
        *_other_method(profile, others, budget, batch_size),
        *_other_options(profile, rows, budget, batch_size),
    ]
    leanest = min(rows, key=lambda row: _upper(row.peak))
    needed = smallest_budget(_upper(leanest.peak), device)
    text = f"a budget of {format_bytes(needed)} or more ({leanest.method})"
    if leanest.peak.high_bytes is None:
        text += ", activations not counted: the profile has none"
    found.append(
        Change("budget", leanest.method, {}, batch_size, 1, leanest.peak.bytes, needed, text)
    )
    return tuple(found)


def _upper(peak: PeakAt) -> int:
    return peak.bytes if peak.high_bytes is None else peak.high_bytes


def _smaller_batch(
    profile: Profile, rows: Sequence[Row], budget: Budget, batch_size: int
) -> Iterator[Change]:
    """The first method, best first, that fits with the same examples per step cut into micro-batches."""
    if profile.memory.activation_bytes is None:
        return
    divisors = tuple(size for size in range(1, batch_size) if batch_size % size == 0)
    for row in rows:

        def fits(size: int, cost: MethodCost = row.cost) -> bool:
            peak = peak_at(profile, cost, size, accumulating=True)
            return peak.fits(budget.usable_bytes) is Fit.YES

        size = largest_batch(fits, candidates=divisors)
        if size is not None:
            peak = peak_at(profile, row.cost, size, accumulating=True)
            text = (
                f"--batch-size {size}, with accumulate: {batch_size // size} in the recipe for the same "
                f"{batch_size} examples per step ({row.method}, peak {format_bytes(peak.bytes)})"
            )
            yield Change(
                "batch",
                row.method,
                {},
                size,
                batch_size // size,
                peak.bytes,
                budget.total_bytes,
                text,
            )
            return


def _other_method(
    profile: Profile, others: Sequence[MethodCost], budget: Budget, batch_size: int
) -> Iterator[Change]:
    """The method with the smallest peak among those that were left out of the question."""
    peaks = [(peak_at(profile, cost, batch_size), cost) for cost in others]
    fitting = [(peak, cost) for peak, cost in peaks if peak.fits(budget.usable_bytes) is Fit.YES]
    if fitting:
        peak, cost = min(fitting, key=lambda pair: pair[0].bytes)
        text = f"--methods {cost.method}: it fits with a peak of {format_bytes(peak.bytes)}"
        yield Change("method", cost.method, {}, batch_size, 1, peak.bytes, budget.total_bytes, text)


def _other_options(
    profile: Profile, rows: Sequence[Row], budget: Budget, batch_size: int
) -> Iterator[Change]:
    """Optimizer state in bf16, and lower ranks, for the first method that fits that way."""
    weights = _weights(profile)
    kinds: tuple[tuple[OptionKind, OptionChanges], ...] = (
        ("state dtype", _bf16_state),
        ("rank", _lower_ranks),
    )
    for kind, candidates in kinds:
        for row in rows:
            change = _first_fitting(row, kind, candidates(row.cost), weights, budget, batch_size)
            if change is not None:
                yield change
                break


def _first_fitting(
    row: Row,
    kind: OptionKind,
    candidates: Iterator[dict[str, Any]],
    weights: Counter[WeightShape],
    budget: Budget,
    batch_size: int,
) -> Change | None:
    method, options = get_method(row.method), changed_options(row.cost)
    for changed in candidates:
        before = row.cost.state_bytes - row.cost.weight_bytes_saved
        peak = row.peak.shifted(_held_bytes(weights, method, options | changed) - before)
        if peak.fits(budget.usable_bytes) is Fit.YES:
            wish = ", ".join(f"{key}: {_short(value)}" for key, value in changed.items())
            text = (
                f"{row.method} with {wish} among its options in the recipe "
                f"(peak {format_bytes(peak.bytes)})"
            )
            return Change(
                kind, row.method, changed, batch_size, 1, peak.bytes, budget.total_bytes, text
            )
    return None


def changed_options(cost: MethodCost) -> dict[str, OptionValue]:
    """Return those options of a profile's row that a user may set and that differ from the method's defaults."""
    defaults = get_method(cost.method).defaults
    plain = {
        key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()
    }
    return {
        key: value for key, value in cost.options.items() if key in plain and value != plain[key]
    }


def _bf16_state(cost: MethodCost) -> Iterator[dict[str, Any]]:
    if "state_dtype" in get_method(cost.method).defaults:
        yield {"state_dtype": "bf16"}


def _lower_ranks(cost: MethodCost) -> Iterator[dict[str, Any]]:
    rank = cost.options.get("rank")
    for _ in range(_HALVINGS):
        if isinstance(rank, int) and rank // 2 >= _SMALLEST_RANK:
            rank //= 2
        elif isinstance(rank, float) and rank / 2 >= _SMALLEST_SHARE:
            rank /= 2
        else:
            return
        yield {"rank": rank}


def _weights(profile: Profile) -> Counter[WeightShape]:
    """Return how many parameters of each shape and treatment there are."""
    dtype = _PARAMETER_DTYPES[profile.settings.dtype]
    return Counter(
        WeightShape("", tuple(layer.shape), layer.treatment, dtype, layer.layer_kind)
        for layer in profile.layers
    )


def _held_bytes(
    weights: Counter[WeightShape], method: Method, options: dict[str, OptionValue]
) -> int:
    """State, and what the weights take beyond those of the model as it was given."""
    return sum(
        count
        * (state_bytes([weight], method, options) - weight_bytes_saved([weight], method, options))
        for weight, count in weights.items()
    )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
