"""What a memory budget means: how much of it a training step can use, and whether a peak fits."""

from __future__ import annotations

import math
from enum import Enum
from typing import Literal

from subopt.errors import UsageError
from subopt.profilers.memory.device_overhead import CPU, UNKNOWN_GPU

from ..reason import Reason

DeviceType = Literal["cuda", "cpu"]

_CONSTANTS = {"cpu": CPU, "cuda": UNKNOWN_GPU}


class Fit(Enum):
    """Whether a predicted peak fits: its whole interval does, only part of the interval does, or none of it."""

    YES = "yes"
    MAYBE = "within the interval"
    NO = "no"


class Budget(Reason):
    """A budget and what is taken off it: the device's context, the allocator's reserve, of the rest the headroom."""

    total_bytes: int
    context_bytes: int
    reserve_bytes: int
    headroom: float = 0.0
    headroom_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        """What tensors can use; 0 where the context alone is too large."""
        taken = self.context_bytes + self.reserve_bytes + self.headroom_bytes
        return max(self.total_bytes - taken, 0)


def read_budget(total_bytes: int, device: DeviceType = "cuda", *, headroom: float = 0.0) -> Budget:
    """Return what a budget leaves for tensors.

    Args:
        total_bytes: Memory of the device, or the part of it this training may have.
        device: `cuda` takes off context and allocator reserve, the largest known; `cpu` has neither.
        headroom: Share of what is left for tensors to keep free.

    Raises:
        UsageError: The budget is not positive, or the headroom not a share of it.
    """
    if total_bytes <= 0:
        raise UsageError(f"a memory budget of {total_bytes} bytes leaves nothing to train with")
    if not 0 <= headroom < 1:
        raise UsageError(
            f"a headroom of {headroom:g} is no share of the budget", "give 0 or more, and below 1"
        )
    constants = _CONSTANTS[device]
    rest = max(total_bytes - constants.context_bytes, 0)
    reserve_bytes = int(rest * constants.reserve_share)
    retained_bytes = math.ceil((rest - reserve_bytes) * headroom)
    return Budget(total_bytes, constants.context_bytes, reserve_bytes, headroom, retained_bytes)


def smallest_budget(peak_bytes: int, device: DeviceType = "cuda", *, headroom: float = 0.0) -> int:
    """Return the fewest bytes of device memory whose usable part holds the peak: `read_budget` read backwards."""
    constants = _CONSTANTS[device]
    share = (1 - constants.reserve_share) * (1 - headroom)
    total = constants.context_bytes + int(peak_bytes / share)
    while (usable := read_budget(total, device, headroom=headroom).usable_bytes) < peak_bytes:
        total += peak_bytes - usable
    return total


def fit(low_bytes: int, high_bytes: int | None, usable_bytes: int) -> Fit:
    """Return whether a peak known as an interval fits; `high_bytes` is None where nothing bounds it."""
    if low_bytes > usable_bytes:
        return Fit.NO
    if high_bytes is not None and high_bytes <= usable_bytes:
        return Fit.YES
    return Fit.MAYBE
