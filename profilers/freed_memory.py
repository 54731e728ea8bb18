"""Memory that is free inside the process, given back to the system."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect what only cycles keep alive, and have the C library return its free memory where it can (glibc).

    Optimizers can be in a cycle with their own hooks. And glibc keeps freed blocks of up to 32 MiB for itself: 0.5 GiB
    after a few training steps of a 60M-parameter model, beside which the next stage would allocate anew.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (
        AttributeError,
        OSError,
        TypeError,
    ):  # another C library; no handle for the process itself on Windows
        return
    trim(0)
