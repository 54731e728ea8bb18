"""The weights of the lowest held-out loss, kept beside the checkpoints: `best/model.safetensors` and `best.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter
from safetensors import SafetensorError, safe_open

from subopt.errors import FileFormatError

from .disk import disk_full_as_error, write_text
from .weights import save_weights

WEIGHTS = "model.safetensors"
RECORD = "best.json"
# In the weights' own file too: the two files cannot be replaced in one step, and this one says what it holds.
_KEY = "best"


@dataclass(frozen=True, slots=True)
class Best:
    """Where a run was best: after which step, at which held-out loss, and over how many tokens that is the mean.

    `eval_tokens` is None in a folder that an earlier version wrote.
    """

    step: int
    eval_loss: FiniteFloat
    eval_tokens: int | None = None


def save_best(folder: Path, state: Mapping[str, Any], best: Best) -> None:
    """Put weights in the place of those that were best until now; each file is complete at every instant.

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
            best = TypeAdapter(Best).validate_json((file.metadata() or {})[_KEY])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"{path} is damaged: {error}", f"delete the folder {folder}, then --resume again"
        ) from None
    _write_record(folder, best)
    return best


def discard_best(folder: Path) -> None:
    """Delete the best weights, and the folder if nothing else is in it."""
    for name in (RECORD, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _write_record(folder: Path, best: Best) -> None:
    write_text(folder / RECORD, json.dumps(asdict(best), indent=1) + "\n")
