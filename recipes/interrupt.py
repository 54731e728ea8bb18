"""Ctrl-C during training: the first one asks for an orderly end, the second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether an orderly end was asked for."""

    def __init__(self, on_request: Callable[[], None]) -> None:
        self.requested = False
        self._on_request = on_request

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal: note the first, raise on the second."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._on_request()


@contextmanager
def interruptible(on_request: Callable[[], None]) -> Iterator[Interrupt]:
    """Turn the first Ctrl-C inside the block into a flag; `on_request` is called as it comes.

    Python delivers signals to the main thread only: elsewhere the flag is never set.
    """
    interrupt = Interrupt(on_request)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
