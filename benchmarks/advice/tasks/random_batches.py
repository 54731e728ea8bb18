"""Endless random training batches that can be saved and continued."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

MakeBatch = Callable[[torch.Generator, int], Any]


class RandomBatches:
    """Batch k is what `make(generator, batch_size)` returns for a generator seeded by the run's seed and k alone."""

    def __init__(self, make: MakeBatch, batch_size: int) -> None:
        self.make, self.batch_size = make, batch_size
        self.seed, self.position = int(torch.randint(2**31, ()).item()), 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.position)
        self.position += 1
        return self.make(generator, self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to continue with the next batch."""
        return {"seed": self.seed, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken."""
        self.seed, self.position = int(state["seed"]), int(state["position"])
