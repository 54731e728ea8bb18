"""The largest temporary memory of one update, found by running the real update on tensors without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from .composed import Composed
from .storage_tracker import StorageTracker


def transient_bytes(shape: Sequence[int], dtype: torch.dtype, options: Mapping[str, Any]) -> int:
    """Return the peak bytes of temporaries in a step that refreshes, beyond parameter, gradient and state.

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
        optimizer = Composed([parameter], **{**dict(options), "period": 1})
        parameter.grad = torch.empty(shape, dtype=dtype)
        # The first step allocates the state; the second, a refresh of everything, is the one to watch.
        optimizer.step()
        held = [parameter, parameter.grad, *optimizer.state[parameter].values()]
        with StorageTracker() as tracker:
            tracker.file(held, "held")
            optimizer.step()
        return int(tracker.peak_bytes[tracker.category])
