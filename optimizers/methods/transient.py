"""The largest temporary memory of one update, found by running the real update on tensors without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from ..optimizer import Composed
from ..state.storage_tracker import StorageTracker


def transient_bytes(shape: Sequence[int], dtype: torch.dtype, options: Mapping[str, Any]) -> int:
    """Return the peak bytes of temporaries in the worst step, beyond parameter, gradient and state.

    Not included: workspace inside LAPACK or cuSOLVER, which no tensor shows.
    """
    frozen = tuple(sorted((key, _hashable(value)) for key, value in options.items()))
    return _transient_bytes(tuple(shape), dtype, frozen)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _transient_bytes(
    shape: tuple[int, ...], dtype: torch.dtype, options: tuple[tuple[str, Any], ...]
) -> int:
    with FakeTensorMode():
        parameter = torch.nn.Parameter(torch.empty(shape, dtype=dtype))
        # Everything that happens from time to time, at every step.
        always = {name: 1 for name, _ in options if name in {"period", "start_step"}}
        optimizer = Composed([parameter], **{**dict(options), **always})
        parameter.grad = torch.empty(shape, dtype=dtype)
        # The first step fits some bases by other means than later ones refresh them, and allocates the state.
        with StorageTracker() as tracker:
            tracker.file([parameter, parameter.grad], "retained")
            optimizer.step()
            first = tracker.peak_bytes[tracker.category] - optimizer.planned_state_bytes()
            tracker.file(optimizer.state[parameter].values(), "retained")
            tracker.reset_peak()
            optimizer.step()
        return int(max(first, tracker.peak_bytes[tracker.category]))
