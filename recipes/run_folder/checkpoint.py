"""Checkpoints: a folder `step-N` per checkpoint, complete or absent, holding everything a run needs to go on.

    model.safetensors   parameters and buffers, of replaced layers too
    optimizer.pt        the optimizer's state_dict
    trainer.pt          progress, data position, state of the random number generators
    checkpoint.json     size and CRC-32 of each of them, written last

A checkpoint is written under another name, forced onto the disk, and renamed: a kill at any instant leaves the
last complete one. Everything loads without running code (`weights_only=True`, safetensors).
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subopt.errors import FileFormatError
from subopt.profilers.target.random_state import set_cpu_state

from ..rng import preserved_rng, rng_state, set_rng_state
from .disk import disk_full_as_error, free_disk_bytes, no_space_for, sync
from .safe_load import read_json, read_tensors
from .weights import actual_state_bytes, load_weights, model_bytes, save_weights

MANIFEST = "checkpoint.json"
_FORMAT = 1
_NAME = re.compile(r"step-(\d{1,18})")
_FILES = {"model.safetensors", "optimizer.pt", "trainer.pt"}
_CHUNK_BYTES = 1 << 20
# Nobody accumulates more; skipping that many takes minutes and not years.
_MOST_BATCHES_PER_STEP = 100_000
# File headers, names, generators and the manifest: about 20 KiB for a small model, 100 KiB for 400 tensors.
_OVERHEAD_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run has come.

    Attributes:
        step: Optimizer steps done.
        tokens: Tokens seen.
        loss: Training loss of the last step, or None before the first.
        eval_loss: The last held-out loss, or None.
        eval_step: The step it was taken at, or None.
    """

    step: int = 0
    tokens: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    eval_step: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkpoint held beside the model and the optimizer."""

    progress: RunProgress
    data: dict[str, Any]
    rng: dict[str, Any]


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    steps = [(int(match[1]), path) for match, path in found if match]
    return [path for _, path in sorted(steps)]


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: dict[str, Any],
    progress: RunProgress,
    *,
    keep: int,
) -> Path:
    """Write `folder/step-N`, then delete all but the newest `keep` checkpoints.

    Returns:
        The checkpoint's folder.

    Raises:
        DiskFullError: It does not fit on the disk; nothing is left of it, and the newest older one stays.
    """
    final = folder / f"step-{progress.step}"
    partial = folder / f".{final.name}.partial"
    what = f"the checkpoint of step {progress.step}"
    needed = model_bytes(model) + actual_state_bytes(optimizer) + _OVERHEAD_BYTES
    with disk_full_as_error(what, folder, needed_bytes=needed):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        _make_room(folder, needed, keep, what)
        try:
            partial.mkdir()
            save_weights(model.state_dict(), partial / "model.safetensors")
            _save(optimizer.state_dict(), partial / "optimizer.pt")
            trainer = {"progress": asdict(progress), "data": data, "rng": rng_state()}
            _save(trainer, partial / "trainer.pt")
            _write_manifest(partial, progress.step)
            partial.rename(final)
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(folder)
        for old in checkpoints_in(folder)[:-keep]:
            _discard(old)
    return final


def _make_room(folder: Path, needed: int, keep: int, what: str) -> None:
    """Delete now what would be deleted after the checkpoint, where it does not fit beside that; never the newest."""
    free = free_disk_bytes(folder)
    old = checkpoints_in(folder)
    doomed = old[: max(0, min(len(old) - 1, len(old) + 1 - keep))]
    while free is not None and free < needed and doomed:
        _discard(doomed.pop(0))
        free = free_disk_bytes(folder)
    if free is not None and free < needed:
        raise no_space_for(what, folder, needed)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> Restored:
    """Load model and optimizer in place and return the rest; the generators are left to the caller.

    Raises:
        FileFormatError: A file is missing, damaged, or belongs to another model; the message names it.
    """
    step = _verify(path)
    load_weights(model, path / "model.safetensors")
    if optimizer is not None:
        state = _load(path / "optimizer.pt")
        try:
            optimizer.load_state_dict(state)
        except Exception as error:  # torch checks nothing of what it is given
            raise FileFormatError(
                f"{path / 'optimizer.pt'} does not fit this optimizer: {error}",
                "resume with the method and options it was saved under, or start over with --force alone",
            ) from None
    trainer = _load(path / "trainer.pt")
    try:
        return _restored(trainer, step)
    except Exception as error:  # generators refuse a wrong state in many ways
        raise _damaged(path / "trainer.pt", f"{type(error).__name__}: {error}") from None


def sweep(folder: Path) -> None:
    """Remove what a killed run left half-written or half-deleted."""
    if folder.is_dir():
        for path in folder.glob(".step-*"):
            _remove(path)


def discard_all(folder: Path) -> None:
    """Delete every checkpoint of a folder, and the folder if nothing else is in it."""
    for path in checkpoints_in(folder):
        _discard(path)
    sweep(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _discard(path: Path) -> None:
    # renamed first: a kill in the middle of deleting must not leave something that looks like a checkpoint
    doomed = path.with_name(f".{path.name}.deleted")
    path.rename(doomed)
    _remove(doomed)


def _remove(path: Path) -> None:
    """Delete a folder with what is in it; of a link the link alone, wherever it leads."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def _save(content: Any, path: Path) -> None:
    with path.open("wb") as file:  # by a path, torch would not say that the disk is full
        torch.save(content, file)
    sync(path)


def _load(path: Path) -> Any:
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _restored(trainer: Any, step: int) -> Restored:
    """Return what `trainer.pt` holds.

    Raises:
        TypeError, KeyError, ValueError: It is not what `save_checkpoint` wrote.
    """
    progress, data, rng = RunProgress(**trainer["progress"]), trainer["data"], trainer["rng"]
    position = data["position"]
    counts = (progress.step, progress.tokens, position)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("its counts are no counts")
    if progress.step != step or position > _MOST_BATCHES_PER_STEP * step:
        raise ValueError(f"step {progress.step}, batch {position} in the checkpoint of step {step}")
    for loss in (progress.loss, progress.eval_loss):
        if not isinstance(loss, float | None):
            raise TypeError("its losses are no numbers")
    with preserved_rng():
        set_rng_state(rng)
        if "iterable" in data:
            set_cpu_state(data["random"])
    return Restored(progress, data, rng)


def _write_manifest(folder: Path, step: int) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"format": _FORMAT, "step": step, "torch": torch.__version__, "files": files}
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync(path)
    sync(folder)


def _verify(folder: Path) -> int:
    """Compare every file with the manifest, so that damage is an error and not a strange training; return the step."""
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
        version, step = manifest["format"], manifest["step"]
        files = {
            name: (entry["bytes"], entry["crc32"]) for name, entry in manifest["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "missing or not a manifest") from None
    if version != _FORMAT:
        raise FileFormatError(
            f"{path} has format {version}; this version of subopt reads {_FORMAT}",
            "resume with the version of subopt that wrote it",
        )
    if set(files) != _FILES or folder.name != f"step-{step}":
        raise _damaged(path, "it lists other files, or another step, than a checkpoint has")
    for name, (size, crc32) in files.items():
        file = folder / name
        if not file.is_file():
            raise _damaged(file, "it is missing")
        if file.stat().st_size != size:
            raise _damaged(file, f"{file.stat().st_size} bytes instead of {size}")
        if _crc32(file) != crc32:
            raise _damaged(file, "its content has changed since it was written")
    return int(step)


def _damaged(file: Path, why: str) -> FileFormatError:
    checkpoint = file.parent
    older = [path for path in checkpoints_in(checkpoint.parent) if path != checkpoint]
    go_on = f"to go on from {older[-1].name}" if older else "to start from the beginning"
    return FileFormatError(
        f"{file} is damaged: {why}", f"delete the folder {checkpoint} {go_on}, then --resume again"
    )


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
