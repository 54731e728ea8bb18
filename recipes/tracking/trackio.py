"""A run for trackio, in its local store."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .tracker import missing


class Trackio:
    """Logs to trackio's store on this machine, which `trackio show` shows.

    The store is where trackio keeps it (TRACKIO_DIR); its own settings may name a server, and only then does anything
    leave the machine. A resumed run goes on under its name. TRACKIO_PROJECT names the project, by default subopt.

    Args:
        folder: The run folder.

    Raises:
        UsageError: The trackio package is not installed.
    """

    name = "trackio"

    def __init__(self, folder: Path) -> None:
        try:
            self._trackio: Any = importlib.import_module("trackio")
        except ImportError:
            raise missing("trackio", "trackio") from None
        self._folder = folder
        self._run: Any = None

    def begin(self, start_step: int, settings: Mapping[str, Any]) -> None:
        """Start a run, or go on with the one of this name."""
        self._run = self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "subopt"),
            name=self._folder.resolve().name,
            resume="allow" if start_step else "never",
            config=dict(settings),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log scalars."""
        self._run.log(dict(scalars), step=step)

    def sync(self) -> None:
        """Do nothing: trackio writes as it goes."""

    def end(self) -> None:
        """Finish the run, which waits until everything is stored."""
        self._trackio.finish()
