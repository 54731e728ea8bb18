"""The random number generators a training step may draw from: seeded, saved and restored together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the user's code may draw from the global generator
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the state of every generator as tensors and plain numbers, loadable with `weights_only=True`."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": {
            "version": version,
            "numbers": torch.tensor(numbers, dtype=torch.int64),
            "gauss": next_gauss,
        },
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned. Generators of CUDA devices that are not here are left out."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        present = state["cuda"][: torch.cuda.device_count()]
        torch.cuda.set_rng_state_all(present)
    python = state["python"]
    random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss"]))
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    restored = (numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["gauss"])
    np.random.set_state(restored)  # noqa: NPY002


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every generator as it was, whatever the block draws: an evaluation must not change the training."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
