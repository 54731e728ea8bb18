"""How much memory is free before a run, and how much the run took at its highest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from subopt.errors import DoesNotFitError, first_line
from subopt.profilers.device import gpu_status, release_memory
from subopt.profilers.history.runs import PeakSource

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")
# Linux: writing 5 there sets the process's peak back to what it holds now
_RESET_PEAK = "5"
_SMALLER = "halve data.batch_size and double data.accumulate: the same step in smaller pieces"


def free_bytes(device: torch.device) -> int | None:
    """Return the memory a run could take on a device, or None where that cannot be told."""
    if device.type == "cuda":
        gpu = gpu_status(device.index or 0)
        return gpu.free_bytes if gpu else torch.cuda.mem_get_info(device)[0]
    return _kilobytes(_MEMINFO, "MemAvailable") if device.type == "cpu" else None


@contextmanager
def oom_as_error(doing: str, hint: str = _SMALLER) -> Iterator[None]:
    """Turn running out of the device's memory into an error that says what to change.

    Args:
        doing: What is being done, such as "step 3".
        hint: What to change.

    Raises:
        DoesNotFitError: The block ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"out of memory at {doing}: {first_line(error)}",
            hint,
        ) from None


class PeakMemory:
    """The highest memory of a run: the allocator's mark on a GPU, the growth of the process on Linux elsewhere.

    Args:
        device: Where the model is.
        held_bytes: What the model itself holds already, counted into the growth.

    Attributes:
        source: "allocator", "process", or None where nothing can be told.
    """

    def __init__(self, device: torch.device, *, held_bytes: int) -> None:
        self._device = device
        self._before: int | None = None
        self.source: PeakSource | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.source = "allocator"
        elif device.type == "cpu" and _reset_process_peak():
            now = _kilobytes(_STATUS, "VmRSS")
            self._before = None if now is None else now - held_bytes
            self.source = "process"

    def bytes(self) -> int | None:
        """Return the highest memory so far, or None where it cannot be told."""
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
