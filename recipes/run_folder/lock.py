"""One training per run folder: a lock that its process holds and that ends with it, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from subopt.errors import UsageError

from .disk import disk_full_as_error

try:
    import fcntl
except ImportError:  # Windows
    _HAS_LOCKS = False
else:
    _HAS_LOCKS = True

NAME = ".lock"

# Locks that this process holds. A forked child shares them, and would keep them when this process is killed.
_held: set[IO[str]] = set()


@contextmanager
def locked(folder: Path, on_unlockable: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder's lock inside the block; a folder made for that goes again if nothing was put into it.

    The lock is the kernel's (`flock`) on a file in the folder: a process that is killed lets go of it, and the file it
    leaves behind means nothing.

    Args:
        folder: The run folder.
        on_unlockable: Called with the reason where the file system has no locks.

    Raises:
        UsageError: Another process trains in this folder, or nothing can be written to it.
        DiskFullError: The disk is full.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with disk_full_as_error("the run folder", folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = _acquired(folder / NAME, on_unlockable)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written to: {error.strerror}", "choose another --output"
        ) from None
    try:
        with _held_on_to(file, folder / NAME) if file else contextlib.nullcontext():
            yield
    finally:
        with contextlib.suppress(OSError):  # it holds a run
            for place in made:
                place.rmdir()


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that a training is going on in, changing nothing.

    Raises:
        UsageError: Another process trains in this folder.
    """
    if not _HAS_LOCKS or not (folder / NAME).is_file():
        return
    with (folder / NAME).open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(folder, file) from None
        except OSError:  # no locks here: `locked` says so
            return


def _acquired(path: Path, on_unlockable: Callable[[str], None]) -> IO[str] | None:
    """Return the locked file, or None where there are no locks."""
    if not _HAS_LOCKS:
        on_unlockable("this system has no file locks")
        return None
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise _in_use(path.parent, file) from None
        except OSError as error:
            file.close()
            on_unlockable(f"{path.parent} cannot be locked ({error.strerror})")
            return None
        # Its last holder may have removed the name since we opened it: then nobody else will ever open this file.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


@contextmanager
def _held_on_to(file: IO[str], path: Path) -> Iterator[None]:
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)
        if not file.closed:  # as it is in a forked child
            path.unlink(missing_ok=True)  # while it is locked
            file.close()


def _in_use(folder: Path, file: IO[str]) -> UsageError:
    owner = file.readline().strip() or "another process"
    return UsageError(
        f"{folder} is in use: {owner} is training in it",
        "wait for it or end it, or choose another --output",
    )


def _let_go_in_child() -> None:
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
