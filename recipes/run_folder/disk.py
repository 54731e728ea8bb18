"""Writing that survives a kill, a power cut or a full disk: complete under its name, or not there."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from subopt.errors import DiskFullError
from subopt.units import format_bytes

# No space, no quota left, and a file longer than the shell's `ulimit -f` allows.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors passes on the number in its text only.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def in_one_step(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` in one step when the block succeeds."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def disk_full_as_error(what: str, path: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn a full disk inside the block into an error that says what, such as "the metrics", did not fit where.

    Raises:
        DiskFullError: The disk or the quota is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full(error):
            raise
        raise no_space_for(what, path, needed_bytes) from error


def no_space_for(what: str, path: Path, needed_bytes: int | None = None) -> DiskFullError:
    """Return the error that says that something does not fit on the disk."""
    free = free_disk_bytes(path)
    known = [f"it takes {format_bytes(needed_bytes)}"] if needed_bytes is not None else []
    known += [f"{format_bytes(free)} free"] if free is not None else []
    return DiskFullError(
        f"the disk is full: no space for {what} in {path}"
        + (f" ({', '.join(known)})" if known else ""),
        "make space (or have your quota raised), then go on with the same command and --resume",
    )


def free_disk_bytes(path: Path) -> int | None:
    """Return the free bytes of the disk that a path is or will be on, or None where that cannot be told."""
    existing = next((place for place in (path, *path.absolute().parents) if place.exists()), None)
    if existing is None:
        return None
    usage = shutil.disk_usage(existing)
    return usage.free if usage.total else None  # some network disks say 0 to everything


def _is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, is of a full disk: torch raises its own on top."""
    while error is not None:
        number = _OS_ERROR.search(str(error))
        if getattr(error, "errno", None) in _FULL or (number and int(number[1]) in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step.

    Raises:
        DiskFullError: The disk or the quota is full.
    """
    with disk_full_as_error(path.name, path.parent), in_one_step(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Force a file's content, or a folder's names, onto the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows cannot open a folder, and orders renames itself
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
