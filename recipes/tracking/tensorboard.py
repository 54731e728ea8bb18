"""A run as TensorBoard scalars, in the folder `tensorboard` of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..run_folder.folder import RunFolder
from .tracker import missing


class TensorBoard:
    """Writes event files beside the run's metrics.

    Args:
        folder: The run folder.

    Raises:
        UsageError: The tensorboard package is not installed.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing("tensorboard", "'subopt[track]'") from None
        self._open = SummaryWriter
        self._folder = RunFolder(folder).tensorboard
        self._writer: Any = None

    def begin(self, start_step: int, settings: Mapping[str, Any]) -> None:
        """Open a file of events; what a killed run wrote after its last checkpoint is hidden."""
        del settings
        self._writer = self._open(str(self._folder), purge_step=start_step + 1)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        """Flush the file."""
        self._writer.flush()

    def end(self) -> None:
        """Close the file."""
        self._writer.close()
