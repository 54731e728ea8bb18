"""The name under which scripts exported by earlier versions import batches: they hand over the target."""

from .target import batches
from .target.loaded import LoadedTarget


class BatchStream(batches.BatchStream):
    """Endless batches of a target's data."""

    def __init__(self, target: LoadedTarget, batch_size: int, *, seed: int) -> None:
        super().__init__(target.data, batch_size, seed=seed)
