"""The largest temporary memory of one update, found by running the real update on tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .composed import Composed


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
        with _PeakBytes() as peak:
            optimizer.step()
        return int(peak.peak_bytes)


class _PeakBytes(TorchDispatchMode):
    """Counts bytes of the storages made while it is active, and the most that were alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.live_bytes = 0
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if _is(leaf) and leaf.untyped_storage()._cdata not in held:
                self._track(leaf.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live_bytes -= size


def _is(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)
