"""The weights of the lowest held-out loss, kept beside the checkpoints: `best/model.safetensors` and `best.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from subopt.errors import FileFormatError

from .disk import disk_full_as_error, write_text
from .safe_load import read_json
from .weights import save_weights

WEIGHTS = "model.safetensors"
RECORD = "best.json"
# In the weights' own file too: the two files cannot be replaced in one step, and this one says what it holds.
_KEY = "best"
# What a damaged file, or a strange text in its metadata, makes its readers raise.
_UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class Best:
    """Where a run was best.

    Attributes:
        step: After which step.
        eval_loss: The held-out loss there.
        eval_tokens: How many held-out tokens it is the mean over; None in a folder that an earlier version wrote.
    """

    step: int
    eval_loss: float
    eval_tokens: int | None = None


def save_best(folder: Path, state: Mapping[str, Any], best: Best) -> None:
    """Put weights in the place of those that were best until now; each file is complete at every instant.

    Args:
        folder: The run's `best` folder.
        state: The state dict, of the user's own model.
        best: Where it is from.

    Raises:
        DiskFullError: The disk is full; the former best stays.
    """
    with disk_full_as_error("the best weights", folder):
        folder.mkdir(exist_ok=True)
        save_weights(state, folder / WEIGHTS, {_KEY: json.dumps(asdict(best))})
        _write_record(folder, best)


def load_best(folder: Path) -> Best | None:
    """Return where the weights in a folder are from, or None where there are none.

    A kill between the two files leaves the record of the weights before: it is written again.

    Raises:
        FileFormatError: The weights' file is damaged.
    """
    path = folder / WEIGHTS
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            noted = json.loads((file.metadata() or {})[_KEY])
        tokens = noted.get("eval_tokens")
        best = Best(
            int(noted["step"]), float(noted["eval_loss"]), None if tokens is None else int(tokens)
        )
        if not math.isfinite(best.eval_loss):
            raise ValueError(f"a loss of {best.eval_loss}")
    except _UNREADABLE as error:
        raise FileFormatError(
            f"{path} is damaged: {error}", f"delete the folder {folder}, then --resume again"
        ) from None
    if _record(folder) != asdict(best):
        _write_record(folder, best)
    return best


def discard_best(folder: Path) -> None:
    """Delete the best weights, and the folder if nothing else is in it."""
    for name in (RECORD, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _record(folder: Path) -> object:
    try:
        return read_json(folder / RECORD)
    except (OSError, ValueError):
        return None


def _write_record(folder: Path, best: Best) -> None:
    write_text(folder / RECORD, json.dumps(asdict(best), indent=1) + "\n")
