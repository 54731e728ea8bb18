"""Where a profile's own time goes: seconds by quantity, nested spans counted once, under the innermost name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import clock


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
        self._devices = () if device is None else (device,)
        self._within_s = 0.0  # of the spans that ended inside the current one

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count what runs inside under a name, less the spans it has inside."""
        outside_s, self._within_s = self._within_s, 0.0
        begin_s = clock.now_s(self._devices)
        try:
            yield
        finally:
            whole_s = clock.now_s(self._devices) - begin_s
            self.seconds[name] += whole_s - self._within_s
            self._within_s = outside_s + whole_s
