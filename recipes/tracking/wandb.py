"""A run for Weights & Biases, offline unless the user configured otherwise."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..run_folder.disk import write_text
from .tracker import missing


class WeightsAndBiases:
    """Logs to wandb; its files are in the folder `wandb` of the run.

    Nothing leaves the machine unless WANDB_MODE says `online`: `wandb sync` uploads an offline run later. A resumed run
    goes on under its id. WANDB_PROJECT names the project, by default subopt.

    Args:
        folder: The run folder.

    Raises:
        UsageError: The wandb package is not installed.
    """

    name = "wandb"

    def __init__(self, folder: Path) -> None:
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError:
            raise missing("wandb", "wandb") from None
        self._folder = folder
        self._run: Any = None

    def begin(self, start_step: int, settings: Mapping[str, Any]) -> None:
        """Start a run, or go on with the one of the folder."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "subopt"),
            name=self._folder.resolve().name,
            dir=str(self._folder),
            id=self._id(is_new=start_step == 0),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(settings),
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log scalars."""
        self._run.log(dict(scalars), step=step)

    def sync(self) -> None:
        """Do nothing: wandb writes as it goes."""

    def end(self) -> None:
        """Finish the run."""
        self._run.finish()

    def _id(self, *, is_new: bool) -> str:
        path = self._folder / "wandb" / "run-id"
        if is_new or not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_text(path, uuid.uuid4().hex[:8] + "\n")
        return path.read_text(encoding="utf-8").strip()
