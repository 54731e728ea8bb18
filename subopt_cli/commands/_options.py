"""Options that several commands share, and how a memory size on the command line is read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..errors import UsageError
from ..units import format_bytes, parse_size

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.plan.budget import Budget, DeviceType

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")
]
Details = Annotated[
    bool, typer.Option("--details", help="Show every table and what its columns mean, too.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[
    str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1; a GPU where there is one.")
]
Rank = Annotated[
    str,
    typer.Option(help="Rank of gradient subspaces (galore, osd), or a share of the short side."),
]
GPU_MEMORY_HELP = "Memory to fit in: 24G = 24GiB (2^30 bytes each), 24GB (10^9), or auto (the GPU's, or main memory)."
HEADROOM = 0.05  # share of the usable budget that stays free

DEFAULT_PROFILE = Path(".subopt/profile.json")

_HEAD_BYTES = 4096  # of a file, in which it says what it is


def check_can_write(path: Path) -> None:
    """Make sure that a file can be written, before the work that is to go into it; nothing is created.

    Raises:
        UsageError: The path is a folder or a device, or its folder cannot be written to.
    """
    if _exists(path):
        if path.is_dir():
            raise UsageError(f"{path} is a folder", f"name a file in it: -o {path / 'NAME'}")
        if not path.is_file():  # such as /dev/null, which a file would take the place of
            raise UsageError(f"{path} is no ordinary file", "name another file with -o")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # the folders below are made when the file is
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {folder}: {error.strerror}", "name another file with -o"
        ) from None


def _exists(path: Path) -> bool:
    try:
        return Path(f"{path}.partial").exists() or path.exists()
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise UsageError(
            f"{str(path)[:80]} cannot be written: {error.strerror}", "name another file with -o"
        ) from None


def check_may_replace(path: Path, mark: str, what: str, hint: str) -> None:
    """Make sure that a file of the user's is not lost.

    Args:
        path: The file to write.
        mark: What a file of ours has near its beginning.
        what: What that would be, in words.
        hint: What to do.

    Raises:
        UsageError: There is a file with something else in it.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        beginning = file.read(_HEAD_BYTES)
    if beginning and mark.encode() not in beginning:
        raise UsageError(f"{path} exists and is not {what}", hint)


def parse_rank(text: str) -> int | float:
    """Return a rank: a whole number of directions, or a share of the short side such as 0.25."""
    try:
        rank: int | float = int(text)
    except ValueError:
        try:
            rank = float(text)
        except ValueError:
            rank = 0
    if (isinstance(rank, int) and rank >= 1) or (isinstance(rank, float) and 0 < rank <= 1):
        return rank
    raise UsageError(
        f"'{text}' is not a rank",
        "give a whole number from 1, or a share of the short side up to 1.0",
    )


def split_names(text: str | None) -> list[str] | None:
    """Return the names in `a,b`; None for None."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--methods names no method", "write it like --methods adamw,adadiag")
    return names


class MemoryLimit(NamedTuple):
    """The memory that training is to fit in, and the kind of device it is of."""

    total_bytes: int
    device: DeviceType


def read_memory_limit(text: str) -> MemoryLimit:
    """Return the memory of a GPU in `24G`; for `auto` the first GPU's, else what this machine has without one."""
    if text != "auto":
        return MemoryLimit(parse_size(text), "cuda")
    from subopt.profilers.device import gpu_status, main_memory_bytes

    gpu = gpu_status()
    if gpu is not None:
        return MemoryLimit(gpu.total_bytes, "cuda")
    return MemoryLimit(main_memory_bytes(), "cpu")


def profile_memory_limit(profile: Profile) -> MemoryLimit:
    """Return the memory that a profile was asked about, else its GPU's, else what `auto` finds here."""
    gpu = profile.environment.gpu
    asked_bytes = profile.settings.gpu_mem_bytes or (gpu.total_bytes if gpu else None)
    return read_memory_limit("auto") if asked_bytes is None else MemoryLimit(asked_bytes, "cuda")


def describe_budget(text: str, budget: Budget) -> str:
    """Return how a size was read and how much of it a training run may fill."""
    return (
        f"{text} read as {format_bytes(budget.total_bytes)} ({budget.total_bytes:,} bytes), "
        f"{format_bytes(budget.usable_bytes)} of it usable"
    )
