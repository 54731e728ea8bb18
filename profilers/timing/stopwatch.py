"""Where a profile's own time goes: seconds by quantity, nested spans counted once, under the innermost name."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up seconds under names.

    Args:
        device: Waited for at both ends of a span, so that work it still has queued counts where it was asked for.

    Attributes:
        seconds: By name; a span within another one counts for itself alone.
        passes: Forward and backward passes taken, counted by whoever takes one.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.passes = 0
        self._device = device if device is not None and device.type == "cuda" else None
        self._within_s = 0.0  # of the spans that ended inside the current one

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count what runs inside under a name, less the spans it has inside."""
        outside_s, self._within_s = self._within_s, 0.0
        begin_s = self._now_s()
        try:
            yield
        finally:
            whole_s = self._now_s() - begin_s
            self.seconds[name] += whole_s - self._within_s
            self._within_s = outside_s + whole_s

    def _now_s(self) -> float:
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
