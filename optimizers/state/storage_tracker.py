"""Counts the bytes of every tensor alive, by category, and remembers the highest total.

A dispatch mode sees each operation's results; a weak reference to their storage says when they are gone. It needs no
memory of its own, so it works under fake tensors, where operations are followed but nothing is allocated or computed.
Storages are counted, not tensors: views and tied parameters count once, and wrappers as what they are made of. What a
kernel allocates for itself and frees again before it returns stays unseen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .low_bit import parts

_DEVICE = torch.ops.prim.device.default


class Stored(NamedTuple):
    """What a storage is.

    Attributes:
        category: What it was filed under.
        scope: Who made it, as `StorageTracker.scope` said at that moment.
        bytes: Its size.
        element_bytes: Bytes of one element of the tensor it was first seen with.
    """

    category: str
    scope: str
    bytes: int
    element_bytes: int


class StorageTracker(TorchDispatchMode):
    """Tracks live tensor storages while it is entered.

    Attributes:
        category: What newly made tensors are filed under.
        scope: Who makes tensors now; only `events` tell it apart.
        live_bytes: Bytes alive now, by category.
        peak_bytes: Bytes alive, by category, at the instant of the highest total since `reset_peak`.
        events: Every storage as it came (+1) and went (-1), in order; None unless asked for.
    """

    def __init__(self, *, keep_events: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.category = "other"
        self.scope = ""
        self.live_bytes: Counter[str] = Counter()
        self.peak_bytes: Counter[str] = Counter()
        self.events: list[tuple[int, Stored]] | None = [] if keep_events else None
        self._total = 0
        self._peak_total = 0
        self._known: dict[int, Stored] = {}

    def file(self, tensors: Iterable[Any], category: str) -> None:
        """Put tensors into a category: ones made before tracking began, or ones now known for what they are."""
        self._see_all(tensors, category, move=True)
        self._note_peak()

    def reset_peak(self) -> None:
        """Forget the peak: from here on the highest total is the present one or a later one."""
        self._peak_total = self._total
        self.peak_bytes = self.live_bytes.copy()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            # asked after every operation, and slowly answered by the fake mode itself
            return args[0].fake_device
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper's own dispatch comes first, and its tensors' operations come back here
        result = func(*args, **(kwargs or {}))
        leaves = (result,) if isinstance(result, torch.Tensor) else tree_leaves(result)
        self._see_all(leaves, self.category, move=False)
        self._note_peak()
        return result

    def _see_all(self, leaves: Iterable[Any], category: str, *, move: bool) -> None:
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                for part in parts(leaf):
                    self._see(part, category, move=move)

    def _see(self, tensor: torch.Tensor, category: str, *, move: bool) -> None:
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        scope = self.scope
        if key not in self._known:
            finalizer = weakref.finalize(storage, self._forget, key)
            finalizer.atexit = False
        elif move:
            scope = self._known[key].scope
            self._forget(key)
        else:
            return
        seen = Stored(category, scope, storage.nbytes(), tensor.element_size())
        self._known[key] = seen
        self._count(1, seen)

    def _forget(self, key: int) -> None:
        self._count(-1, self._known.pop(key))

    def _count(self, sign: int, stored: Stored) -> None:
        self.live_bytes[stored.category] += sign * stored.bytes
        self._total += sign * stored.bytes
        if self.events is not None:
            self.events.append((sign, stored))

    def _note_peak(self) -> None:
        if self._total > self._peak_total:
            self.reset_peak()
