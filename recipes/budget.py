"""What a memory budget means: how much of it a training step can use, and whether a peak fits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from subopt.errors import UsageError
from subopt.profilers.device_constants import (
    CPU,
    UNKNOWN_GPU,
    DeviceConstants,
    gpu_constants,
)

DeviceKind = Literal["cuda", "cpu"]

# The figures for a GPU of unknown name, under the names that callers know.
CUDA_CONTEXT_BYTES = UNKNOWN_GPU.context_bytes
RESERVE_SHARE = UNKNOWN_GPU.reserve_share


class Fit(Enum):
    """Whether a predicted peak fits: its whole interval does, only part of the interval does, or none of it."""

    YES = "yes"
    MAYBE = "within the interval"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget and what is taken off it before the first tensor.

    Attributes:
        total_bytes: The budget as given.
        context_bytes: Taken by the device's context.
        reserve_bytes: Kept by the allocator.
    """

    total_bytes: int
    context_bytes: int
    reserve_bytes: int

    @property
    def usable_bytes(self) -> int:
        """What tensors can use; 0 where the context alone is too large."""
        return max(self.total_bytes - self.context_bytes - self.reserve_bytes, 0)


def read_budget(
    total_bytes: int, device: DeviceKind = "cuda", gpu_name: str | None = None
) -> Budget:
    """Return what a budget leaves for tensors.

    Args:
        total_bytes: Memory of the device, or the part of it this training may have.
        device: `cuda` takes off context and allocator reserve; `cpu` has neither.
        gpu_name: What the driver calls the GPU, where that is known; what is taken off is the largest known otherwise.

    Raises:
        UsageError: The budget is not positive.
    """
    if total_bytes <= 0:
        raise UsageError(f"a memory budget of {total_bytes} bytes leaves nothing to train with")
    constants = _constants(device, gpu_name)
    rest = max(total_bytes - constants.context_bytes, 0)
    return Budget(total_bytes, constants.context_bytes, int(rest * constants.reserve_share))


def smallest_budget(
    peak_bytes: int, device: DeviceKind = "cuda", gpu_name: str | None = None
) -> int:
    """Return the fewest bytes of device memory whose usable part holds the peak: `read_budget` read backwards."""
    constants = _constants(device, gpu_name)
    if constants == CPU:
        return peak_bytes
    total = constants.context_bytes + int(peak_bytes / (1 - constants.reserve_share))
    while (lacking := peak_bytes - read_budget(total, device, gpu_name).usable_bytes) > 0:
        total += lacking
    return total


def _constants(device: DeviceKind, gpu_name: str | None) -> DeviceConstants:
    return CPU if device == "cpu" else gpu_constants(gpu_name)


def fit(low_bytes: int, high_bytes: int | None, usable_bytes: int) -> Fit:
    """Return whether a peak known as an interval fits.

    Args:
        low_bytes: The peak is at least this.
        high_bytes: The peak is at most this; None where nothing bounds it.
        usable_bytes: What tensors can use.
    """
    if low_bytes > usable_bytes:
        return Fit.NO
    if high_bytes is not None and high_bytes <= usable_bytes:
        return Fit.YES
    return Fit.MAYBE
