"""Experiment trackers of a run folder: accelerate's, with what makes a resumed run go on where its checkpoint is.

Nothing leaves the machine unless the user's own settings say so: wandb runs offline unless WANDB_MODE says `online`
(`wandb sync` uploads them later), and trackio keeps its store where TRACKIO_DIR says. WANDB_PROJECT and TRACKIO_PROJECT
name the project, by default subopt.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from subopt.errors import UsageError, suggestion

from ..run_folder.disk import write_text
from ..run_folder.folder import RunFolder

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Open: TypeAlias = Callable[[Path, int, Mapping[str, Any]], "GeneralTracker"]


@dataclass(frozen=True)
class Tracker:
    """One of them.

    Attributes:
        name: What it is called in messages.
        module: What it imports.
        install: What pip installs it by.
        open: Makes accelerate's tracker of a run folder whose run starts, or goes on after so many steps, with its
            settings; what was logged after those steps comes again. It writes nothing before its `start`.
    """

    name: str
    module: str
    install: str
    open: Open


def _tensorboard(folder: Path, start_step: int, settings: Mapping[str, Any]) -> GeneralTracker:
    """Event files beside the run's metrics; what a killed run wrote after its last checkpoint is hidden."""
    from accelerate.tracking import TensorBoardTracker

    del settings
    place = RunFolder(folder).tensorboard
    return TensorBoardTracker(place.name, place.parent, purge_step=start_step + 1)


def _wandb(folder: Path, start_step: int, settings: Mapping[str, Any]) -> GeneralTracker:
    """Files in the folder `wandb` of the run; a resumed run goes on under its id, which wandb itself does not keep."""
    from accelerate.tracking import WandBTracker

    path = folder / "wandb" / "run-id"
    if start_step == 0 or not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_text(path, uuid.uuid4().hex[:8] + "\n")
    return WandBTracker(
        os.environ.get("WANDB_PROJECT", "subopt"),
        name=folder.resolve().name,
        dir=str(folder),
        id=path.read_text(encoding="utf-8").strip(),
        resume="allow",
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=dict(settings),
    )


def _trackio(folder: Path, start_step: int, settings: Mapping[str, Any]) -> GeneralTracker:
    """Trackio's store on this machine; a resumed run goes on under its name."""
    from accelerate.tracking import TrackioTracker

    return TrackioTracker(
        os.environ.get("TRACKIO_PROJECT", "subopt"),
        name=folder.resolve().name,
        resume="allow" if start_step else "never",
        config=dict(settings),
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )


TRACKERS = {
    "tensorboard": Tracker(
        "TensorBoard", "torch.utils.tensorboard", "'subopt[track]'", _tensorboard
    ),
    "wandb": Tracker("wandb", "wandb", "wandb", _wandb),
    "trackio": Tracker("trackio", "trackio", "trackio", _trackio),
}


def parse_trackers(text: str) -> list[str]:
    """Return the names in a list such as `tensorboard,wandb`, each once.

    Raises:
        UsageError: An unknown name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in TRACKERS:
            raise UsageError(
                f"unknown tracker '{name}'{suggestion(name, TRACKERS)}",
                f"trackers: {', '.join(TRACKERS)}",
            )
    return names


def installed_trackers(names: Sequence[str]) -> list[Tracker]:
    """Return the named trackers.

    Raises:
        UsageError: A package is not installed.
    """
    for name in names:
        try:
            importlib.import_module(TRACKERS[name].module)
        except ImportError:
            raise UsageError(
                f"tracking with {name} needs the package {name}, which is not installed",
                f"install it with: pip install {TRACKERS[name].install}",
            ) from None
    return [TRACKERS[name] for name in names]
