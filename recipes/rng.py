"""The random number generators a training step may draw from: seeded, saved and restored together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from subopt.profilers.target.random_state import cpu_state, set_cpu_state


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the user's code may draw from the global generator
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the state of every generator as tensors and plain values, loadable with `weights_only=True`."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {**cpu_state(), "cuda": cuda}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` returned. Generators of CUDA devices that are not here are left out."""
    set_cpu_state(state)
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every generator as it was, whatever the block draws: an evaluation must not change the training."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
