"""What a method keeps for one parameter, described once: the optimizer allocates from it, the table counts from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from . import low_bit

SlotType = Literal["moment", "vector", "basis", "count", "device_count"]

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}


@dataclass(frozen=True)
class Slot:
    """One state tensor.

    Attributes:
        shape: Its shape.
        slot_type: Decides dtype and device. `moment`: the state dtype. `vector`: row and column statistics, always the
            compute dtype, since r s^T underflows in half precision. `basis`: the basis dtype. `count`: a float32
            scalar on the CPU, read without waiting for a device. `device_count`: an int32 scalar beside the parameter.
        axes: The coordinates its dimensions follow when a basis changes: "row", "column", or none.
        power: 1 if a basis change maps it linearly, 2 if by the elementwise square of that map (second moments).
        identity: Starts as the identity, or a batch of it, instead of zeros.
    """

    shape: tuple[int, ...]
    slot_type: SlotType
    axes: tuple[str, ...] = ()
    power: int = 1
    identity: bool = False


Layout = Mapping[str, Slot]


def compute_dtype(parameter: torch.dtype) -> torch.dtype:
    """Return the dtype in which a parameter's update is computed."""
    return torch.float64 if parameter == torch.float64 else torch.float32


@dataclass(frozen=True)
class Dtypes:
    """The dtypes that one parameter's update uses.

    Attributes:
        compute: Of arithmetic.
        moment: Of moments.
        basis: Of bases.
        low_bit: Whether moments large enough for it are kept in 8-bit blocks instead.
    """

    compute: torch.dtype
    moment: torch.dtype
    basis: torch.dtype
    low_bit: bool = False

    @classmethod
    @cache
    def of(cls, parameter: torch.dtype, state_dtype: str | None, basis_dtype: str | None) -> Dtypes:
        """Return them for a parameter's dtype and the two options.

        Arithmetic is float64 under float64 parameters and float32 otherwise. Moments default to the parameter's dtype,
        as in torch.optim; bases default to the compute dtype, so they stay float32 under bfloat16 parameters. Moments
        too small for 8-bit blocks stay in the compute dtype.
        """
        compute = compute_dtype(parameter)
        low_bit_moments = state_dtype == low_bit.STATE_DTYPE
        named = compute if low_bit_moments else DTYPES.get(state_dtype or "")
        return cls(
            compute=compute,
            moment=named or parameter,
            basis=DTYPES[basis_dtype] if basis_dtype else compute,
            low_bit=low_bit_moments,
        )

    @classmethod
    def under(cls, parameter: torch.dtype, options: Mapping[str, Any]) -> Dtypes:
        """Return them for a parameter's dtype and the options of its group; what has no such option has no choice."""
        return cls.of(parameter, options.get("state_dtype"), options.get("basis_dtype"))

    def slot(self, slot: Slot) -> torch.dtype:
        """Return the dtype of a slot; `low_bit.CODES` for one in 8-bit blocks."""
        if self.low_bit and slot.slot_type == "moment" and low_bit.suits(slot.shape):
            return low_bit.CODES
        return {
            "moment": self.moment,
            "vector": self.compute,
            "basis": self.basis,
            "count": torch.float32,
            "device_count": torch.int32,
        }[slot.slot_type]


def layout_bytes(layout: Layout, dtypes: Dtypes, *, counters: bool = True) -> int:
    """Return the exact bytes of a layout; without `counters` as the papers count, which leave scalars out."""
    return sum(
        _slot_bytes(slot, dtypes.slot(slot))
        for slot in layout.values()
        if counters or slot.slot_type not in {"count", "device_count"}
    )


def _slot_bytes(slot: Slot, dtype: torch.dtype) -> int:
    if dtype is low_bit.CODES:
        return low_bit.blocked_bytes(slot.shape)
    return prod(slot.shape) * dtype.itemsize


def allocate(layout: Layout, dtypes: Dtypes, device: torch.device) -> dict[str, Tensor]:
    """Return the starting tensors of a layout."""
    return {name: _start(slot, dtypes.slot(slot), device) for name, slot in layout.items()}


def _start(slot: Slot, dtype: torch.dtype, device: torch.device) -> Tensor:
    if slot.slot_type == "count":
        # torch.tensor, not zeros: under fake tensors its value stays known, so that simulations can branch on it.
        return torch.tensor(0.0, dtype=dtype)
    if dtype is low_bit.CODES:
        return low_bit.zeros(slot.shape, device, signed=slot.power == 1)
    if slot.identity:
        identity = torch.eye(*slot.shape[-2:], dtype=dtype, device=device)
        return identity.expand(slot.shape).clone(memory_format=torch.contiguous_format)
    return torch.zeros(slot.shape, dtype=dtype, device=device)


def transport(
    moments: Mapping[str, Tensor], layout: Layout, rotations: Mapping[str, Tensor]
) -> None:
    """Carry moments across a change of basis, in place.

    With R = P_new^T P_old on an axis: first moments X <- R X, second moments X <- (R*R) X (elementwise square), which
    keeps them non-negative and, at full rank, keeps their sum. A moment without that axis is left as it is: column
    statistics of Hfac's first moment cannot be rotated by rows without the matrix they summarise.

    Args:
        moments: The moments to carry; modified.
        layout: Their slots, for axes and powers.
        rotations: For each axis that changed, R of shape (new, old); or, for a permutation, the old index of every new
            coordinate, shape (new,).
    """
    for name, value in moments.items():
        slot = layout[name]
        moved = value
        for axis, rotation in rotations.items():
            if axis not in slot.axes:
                continue
            dim = slot.axes.index(axis)
            if rotation.dim() == 1:
                moved = low_bit.read(moved, moved.dtype).index_select(dim, rotation)
                continue
            R = rotation if slot.power == 1 else rotation.square()
            wide = low_bit.read(moved, R.dtype)
            moved = wide @ R.mT if dim == 1 else R @ wide
        if moved is not value:
            low_bit.write(value, moved)
