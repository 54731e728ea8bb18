"""One training per run folder: a lock that its process holds and that ends with it, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from subopt.errors import UsageError

from .disk import disk_full_as_error

NAME = ".lock"
# So long a lock is tried: somebody may just be looking whether it is free, or removing the file.
_PATIENCE_S = 0.2
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def locked(folder: Path, on_unlockable: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder's lock inside the block; a folder made for that goes again if nothing was put into it.

    The lock is the kernel's, on a file in the folder: a process that is killed lets go of it, and the file it leaves
    behind means nothing. Forked children do not share it. Where the file system has no locks, `on_unlockable` is called
    with the reason.

    Raises:
        UsageError: Another process trains in this folder, or nothing can be written to it.
        DiskFullError: The disk is full.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = _lock(folder, on_acquired=_sign)
    try:
        with disk_full_as_error("the run folder", folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise _in_use(folder) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UsageError(
                f"{folder} cannot be written to: {error.strerror}", "choose another --output"
            ) from None
        on_unlockable(f"{folder} cannot be locked ({error.strerror})")
    try:
        yield
    finally:
        if lock.is_locked:  # as it is not in a forked child
            # an open file on Windows, where releasing removes it
            with contextlib.suppress(OSError):
                (folder / NAME).unlink(missing_ok=True)
            lock.release()
        with contextlib.suppress(OSError):  # it holds a run
            for place in made:
                place.rmdir()


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that a training is going on in, changing nothing.

    Raises:
        UsageError: Another process trains in this folder.
    """
    if not (folder / NAME).is_file():
        return
    try:
        with _lock(folder):
            return
    except Timeout:
        raise _in_use(folder) from None
    except OSError:  # no locks here, or nothing can be written: `locked` says so
        return


def _lock(folder: Path, on_acquired: Callable[[int], None] | None = None) -> FileLock:
    path = folder / NAME
    return FileLock(path, _PATIENCE_S, fallback_to_soft=False, on_acquired=on_acquired)


def _sign(descriptor: int) -> None:
    """Write into the lock's file whose it is."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _in_use(folder: Path) -> UsageError:
    owner = ""
    with contextlib.suppress(OSError), (folder / NAME).open(encoding="utf-8") as file:
        owner = file.readline(200).strip()
    return UsageError(
        f"{folder} is in use: {owner or 'another process'} is training in it",
        "wait for it or end it, or choose another --output",
    )
