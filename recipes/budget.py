"""What a memory budget means: how much of it a training step can use, and whether a peak fits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from subopt.errors import UsageError

DeviceKind = Literal["cuda", "cpu"]

# What a process takes before its first tensor: driver context and loaded kernels. Reported by users of several
# estimators: A100 1268 MiB, H100 about 1000 MiB, L4 694 MiB. The largest of them, so that "fits" errs on the safe side.
CUDA_CONTEXT_BYTES = 1268 * 2**20

# Share of the rest that PyTorch's caching allocator reserves but cannot hand out (rounding, fragmentation);
# 5.4 to 7 % in the same reports, far more in pathological runs.
RESERVE_SHARE = 0.07


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


def read_budget(total_bytes: int, device: DeviceKind = "cuda") -> Budget:
    """Return what a budget leaves for tensors.

    Args:
        total_bytes: Memory of the device, or the part of it this training may have.
        device: `cuda` takes off context and allocator reserve; `cpu` has neither.

    Raises:
        UsageError: The budget is not positive.
    """
    if total_bytes <= 0:
        raise UsageError(f"a memory budget of {total_bytes} bytes leaves nothing to train with")
    if device == "cpu":
        return Budget(total_bytes, 0, 0)
    rest = max(total_bytes - CUDA_CONTEXT_BYTES, 0)
    return Budget(total_bytes, CUDA_CONTEXT_BYTES, int(rest * RESERVE_SHARE))


def smallest_budget(peak_bytes: int, device: DeviceKind = "cuda") -> int:
    """Return the fewest bytes of device memory whose usable part holds the peak: `read_budget` read backwards."""
    if device == "cpu":
        return peak_bytes
    total = CUDA_CONTEXT_BYTES + int(peak_bytes / (1 - RESERVE_SHARE))
    while read_budget(total, device).usable_bytes < peak_bytes:
        total += 1
    return total


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
