"""The fake tensor mode in which models are followed: tensors with shapes and dtypes and no data."""

from __future__ import annotations

from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode


class FollowMode(FakeTensorMode):
    """A fake tensor mode that user code may build and copy models under; it is shared by the copies, never copied.

    A fake tensor refers to its mode, so `copy.deepcopy` of a module (`nn.TransformerEncoder` copies its layer) copies
    torch's own mode with all its tables. Those hold weak references to storages by address (`StorageWeakRef`, one for
    each constant such as batch normalisation's counter); a copy of one frees the same reference a second time, and
    that corrupts the process' memory.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> FollowMode:
        return self
