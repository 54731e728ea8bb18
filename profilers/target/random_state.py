"""A private stream of randomness: data must not depend on how much of it the model draws."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class RandomStream:
    """The states of Python's, NumPy's and torch's global CPU generators, put in place only where asked for.

    Two streams of one seed draw the same numbers.
    """

    def __init__(self, seed: int) -> None:
        outside = cpu_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 (the user's code may draw from the global generator)
        torch.default_generator.manual_seed(seed)
        self._state = cpu_state()
        set_cpu_state(outside)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this stream inside the context, and leave the generators outside as they were."""
        outside = cpu_state()
        set_cpu_state(self._state)
        try:
            yield
        finally:
            self._state = cpu_state()
            set_cpu_state(outside)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values, which `torch.load(weights_only=True)` reads back."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._state = dict(state)


def cpu_state() -> dict[str, Any]:
    """Return the states of the CPU generators as tensors and plain values, loadable with `weights_only=True`."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.default_generator.get_state(),
    }


def set_cpu_state(state: Mapping[str, Any]) -> None:
    """Put back what `cpu_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.default_generator.set_state(state["torch"])
