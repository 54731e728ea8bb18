"""Ctrl-C and signals that end a process: the first one asks for an orderly end, the second one ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

from .events import Interrupting

OnRequest: TypeAlias = Callable[[Interrupting], None]

# Ctrl-C; what `kill`, batch systems and shutdowns send; a terminal that was closed (not on Windows).
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_HANG_UP = getattr(signal, "SIGHUP", None)
_SIGNALLED = 128  # the exit status of a process that a signal ended is this plus its number


class Ended(KeyboardInterrupt):
    """A second signal came: end at once, with the exit status of a process that this signal ended."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_status = _SIGNALLED + number


class Interrupt:
    """Whether an orderly end was asked for.

    Attributes:
        requested: Whether one of the signals came.
        exit_status: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP; None where none came.
    """

    def __init__(self, on_request: OnRequest) -> None:
        self.requested = False
        self.exit_status: int | None = None
        self._on_request = on_request
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note the first, end on the second."""
        if number == _HANG_UP:
            _leave_terminals(self._terminals)
            # a closing terminal may send it twice, and nobody is there to mean it
            if self.requested:
                return
        if self.requested:
            raise Ended(number)
        self.requested = True
        self.exit_status = _SIGNALLED + number
        self._on_request(Interrupting(signal.Signals(number).name))


@contextmanager
def interruptible(on_request: OnRequest) -> Iterator[Interrupt]:
    """Turn the first signal inside the block into a flag; `on_request` is told of it as it comes.

    A signal that the process was told to ignore stays ignored, as `nohup` does with SIGHUP. Python delivers signals to
    the main thread only: elsewhere the flag is never set.
    """
    interrupt = Interrupt(on_request)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {
        number: signal.signal(number, interrupt)
        for number in _ENDING
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_terminals(descriptors: Sequence[int]) -> None:
    """Let go of terminals that were closed: every further word to one would be an error."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        if not os.isatty(descriptor):  # it was one before
            os.dup2(null, descriptor)
    os.close(null)
