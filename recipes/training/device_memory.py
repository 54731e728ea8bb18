"""How much memory is free before a run, how much the run took at its highest, and what to do where it is too much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from subopt.errors import DoesNotFitError, first_line
from subopt.profilers.device import gpu_status, release_memory
from subopt.profilers.history.runs import PeakSource

from ..schema import Recipe

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")
# Linux: writing 5 there sets the process's peak back to what it holds now
_RESET_PEAK = "5"


def free_bytes(device: torch.device) -> int | None:
    """Return the memory a run could take on a device, or None where it is unknown."""
    if device.type == "cuda":
        gpu = gpu_status(device.index or 0)
        return gpu.free_bytes if gpu else torch.cuda.mem_get_info(device)[0]
    return _kilobytes(_MEMINFO, "MemAvailable") if device.type == "cpu" else None


@contextmanager
def oom_as_error(doing: str, recipe: Recipe) -> Iterator[None]:
    """Turn running out of memory, at "step 3" or another place, into an error that says what to change in the recipe.

    Raises:
        DoesNotFitError: The block ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"out of memory at {doing}: {first_line(error)}", less_memory(recipe)
        ) from None


def less_memory(recipe: Recipe) -> str:
    """Return what to change in a recipe for a lower peak, the same step where that can be."""
    batch_size, accumulate = recipe.data.batch_size, recipe.data.accumulate
    changes = []
    if batch_size % 2 == 0 and not recipe.fused_backward:
        changes.append(
            "take the same step in smaller pieces: "
            f"data.batch_size={batch_size // 2} data.accumulate={accumulate * 2}"
        )
    elif batch_size > 1:
        changes.append(f"take a smaller step: data.batch_size={batch_size // 2}")
    if not recipe.recompute:
        changes.append("compute activations again: recompute=true")
    return (
        "; or ".join(changes) or "take a method with less state: `subopt recommend` compares them"
    )


class PeakMemory:
    """The highest memory of a run: the allocator's mark on a GPU, the growth of the process on Linux elsewhere.

    Args:
        device: Where the model is.
        model_bytes: What the model itself takes already, counted into the growth.

    Attributes:
        source: "allocator", "process", or None where it is unknown.
    """

    def __init__(self, device: torch.device, *, model_bytes: int) -> None:
        self._device = device
        self._before: int | None = None
        self.source: PeakSource | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.source = "allocator"
        elif device.type == "cpu" and _reset_process_peak():
            now = _kilobytes(_STATUS, "VmRSS")
            self._before = None if now is None else now - model_bytes
            self.source = "process"

    def bytes(self) -> int | None:
        """Return the highest memory so far, or None where it is unknown."""
        if self.source == "allocator":
            return torch.cuda.max_memory_allocated(self._device)
        highest = _kilobytes(_STATUS, "VmHWM") if self.source else None
        if highest is None or self._before is None:
            return None
        return max(0, highest - self._before)


def _reset_process_peak() -> bool:
    # what the checks have freed would otherwise be used again unseen
    release_memory()
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _kilobytes(file: Path, key: str) -> int | None:
    """Return the bytes behind a `Key:   123 kB` line of one of Linux' status files."""
    try:
        for line in file.read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
