"""A method's row of the profile with other options: leaner ones, or those that a race found best."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping

import torch

from subopt.optimizers import get_method
from subopt.profilers.costs.architectures import WeightShape
from subopt.profilers.costs.formula import state_bytes, weight_bytes_saved
from subopt.profilers.record.profile import MethodCost, Peak, PhasePeaks, Profile

from ..schema import OptionValue

_PARAMETER_DTYPES = {"fp32": torch.float32, "bf16-mixed": torch.float32, "bf16": torch.bfloat16}

# A rank is halved at most this often, and never below this many directions.
_HALVINGS = 4
_SMALLEST_RANK = 4
_SMALLEST_SHARE = 1 / 64


def changed_options(cost: MethodCost) -> dict[str, OptionValue]:
    """Return those options of a profile's row that a user may set and that differ from the method's defaults."""
    defaults = get_method(cost.method).defaults
    plain = {
        key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()
    }
    return {
        key: value for key, value in cost.options.items() if key in plain and value != plain[key]
    }


def parameter_dtype(profile: Profile) -> torch.dtype:
    """Return the dtype in which the profile's weights are held."""
    return _PARAMETER_DTYPES[profile.settings.dtype]


def leaner_options(cost: MethodCost) -> Iterator[dict[str, OptionValue]]:
    """Yield options that shrink a method's state, the smallest change to its mathematics first.

    Optimizer state in bf16 rounds what is kept; a lower rank leaves directions out.
    """
    rounded: dict[str, OptionValue] = {}
    is_settable = "state_dtype" in get_method(cost.method).defaults
    if is_settable and cost.options.get("state_dtype") in {None, "fp32"}:
        rounded = {"state_dtype": "bf16"}
        yield rounded
    for rank in _lower_ranks(cost):
        yield {"rank": rank}
        if rounded:
            yield {"rank": rank, **rounded}


def with_options(
    profile: Profile, cost: MethodCost, changed: Mapping[str, OptionValue]
) -> MethodCost:
    """Return a row of the profile with some options changed, its state and peak moved by what these take by formula."""
    if not changed:
        return cost
    before = changed_options(cost)
    old, new = (_held(profile, cost.method, options) for options in (before, {**before, **changed}))
    state, saved = new[0] - old[0], new[1] - old[1]
    peak = None if cost.peak is None else _shifted(cost.peak, state - saved)
    return cost.model_copy(
        update={
            "options": {**cost.options, **changed},
            "state_bytes": cost.state_bytes + state,
            "weight_bytes_saved": cost.weight_bytes_saved + saved,
            "peak": peak,
        }
    )


def _lower_ranks(cost: MethodCost) -> Iterator[int | float]:
    rank = cost.options.get("rank")
    for _ in range(_HALVINGS):
        if isinstance(rank, int) and rank // 2 >= _SMALLEST_RANK:
            rank //= 2
        elif isinstance(rank, float) and rank / 2 >= _SMALLEST_SHARE:
            rank /= 2
        else:
            return
        yield rank


def _held(profile: Profile, method: str, options: Mapping[str, OptionValue]) -> tuple[int, int]:
    """Return the bytes of state and those saved of the weights, both by formula."""
    dtype, key = parameter_dtype(profile), json.dumps(options, sort_keys=True)
    weights = Counter(
        WeightShape("", tuple(layer.shape), layer.role, dtype, layer.layer_type)
        for layer in profile.layers
    )
    found = [(count, _held_for(weight, method, key)) for weight, count in weights.items()]
    return sum(n * held[0] for n, held in found), sum(n * held[1] for n, held in found)


@functools.lru_cache(maxsize=4096)  # the same shapes and options come again and again
def _held_for(weight: WeightShape, method: str, options: str) -> tuple[int, int]:
    record, settings = get_method(method), json.loads(options)
    return (
        state_bytes([weight], record, settings),
        weight_bytes_saved([weight], record, settings),
    )


def _shifted(peak: Peak, delta_bytes: int) -> Peak:
    """Return a peak with something held throughout the step made larger or smaller."""

    def moved(size: int | None) -> int | None:
        return None if size is None else max(size + delta_bytes, 0)

    update = {name: moved(getattr(peak, name)) for name in ("bytes", "low_bytes", "high_bytes")}
    by_phase = PhasePeaks(**{phase: moved(size) for phase, size in peak.by_phase})
    return peak.model_copy(update={**update, "by_phase": by_phase})
