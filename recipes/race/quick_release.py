"""Quick garbage collection while many models are made and thrown away."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_release() -> Iterator[None]:
    """Let the collector look, within the block, at what is made in it alone: all of torch takes it half a second."""
    # Whoever froze something has seen to that, and what is frozen thaws as a whole.
    if gc.get_freeze_count() > 0:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
