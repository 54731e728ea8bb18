"""What a device takes beside the tensors: driver context, library workspaces, and the allocator's reserve.

None of it shows in a simulation. Bytes, with their sources:

| constant | value | source |
|---|---|---|
| context, A100 | 1268 MiB | calibration table of the agilerl-arena package, 1.29 (memory of a fresh process, by NVML) |
| context, Hopper | 1268 MiB | the same table has 1000 MiB for the H100 as an estimate; the measured figure is safer |
| context, L4 | 694 MiB | the same table |
| context, any other GPU | 1268 MiB | the largest of these |
| cuBLAS workspace | 8 519 680 B; 32 MiB from Hopper on | PyTorch's CUDA notes, CUBLAS_WORKSPACE_CONFIG |
| small segment | 2 MiB, for allocations of up to 1 MiB | PyTorch, c10/core/AllocatorConfig.h |
| reserve | 7 % | reserved but not handed out: 5.4 to 7 % in the arena table; far more in pathological runs |

The CPU has none of these. The context is not the allocator's: it is taken off a budget, never added to a peak.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MIB = 2**20

# Share of what is left beside the context that PyTorch's caching allocator keeps but cannot hand out.
RESERVE_SHARE = 0.07
# Allocations of up to 1 MiB share segments of this size.
SMALL_SEGMENT_BYTES = 2 * _MIB

_SMALL_WORKSPACE_BYTES = 8_519_680
_HOPPER_WORKSPACE_BYTES = 32 * _MIB


@dataclass(frozen=True, slots=True)
class DeviceConstants:
    """What one kind of device takes beside the tensors.

    Attributes:
        context_bytes: Driver context and loaded kernels, before the first tensor.
        workspace_bytes: What cuBLAS keeps for itself; the allocator counts it as allocated.
        segment_bytes: Slack of the last segment of small allocations.
        reserve_share: Share of the memory beside the context that the allocator keeps and cannot hand out.
    """

    context_bytes: int
    workspace_bytes: int
    segment_bytes: int
    reserve_share: float

    @property
    def non_tensor_bytes(self) -> int:
        """What the allocator's highest mark holds beyond tensors, at most."""
        return self.workspace_bytes + self.segment_bytes


def _gpu(context_mib: int, workspace_bytes: int) -> DeviceConstants:
    return DeviceConstants(context_mib * _MIB, workspace_bytes, SMALL_SEGMENT_BYTES, RESERVE_SHARE)


CPU = DeviceConstants(0, 0, 0, 0.0)
# Errs on the safe side: the largest of what is known.
UNKNOWN_GPU = _gpu(1268, _HOPPER_WORKSPACE_BYTES)

# By what the driver calls the GPU ("NVIDIA H100 80GB HBM3"); the first that matches.
_BY_NAME = (
    (re.compile(r"\bA100\b"), _gpu(1268, _SMALL_WORKSPACE_BYTES)),
    (re.compile(r"\bH(100|200|20|800)\b|\bGH200\b"), _gpu(1268, _HOPPER_WORKSPACE_BYTES)),
    (re.compile(r"\bL4\b"), _gpu(694, _SMALL_WORKSPACE_BYTES)),
)


def gpu_constants(name: str | None) -> DeviceConstants:
    """Return the constants of a GPU by the name its driver gives it; the largest known ones for any other."""
    matching = (found for pattern, found in _BY_NAME if name and pattern.search(name))
    return next(matching, UNKNOWN_GPU)
