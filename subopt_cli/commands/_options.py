"""Options that several commands share, and how a memory size on the command line is read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..units import format_bytes, parse_size

if TYPE_CHECKING:
    from subopt.recipes.budget import Budget

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[
    str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1; a GPU where there is one.")
]
GPU_MEMORY_HELP = (
    "Memory to fit in: 24G = 24GiB (2^30 bytes each), 24GB (10^9), or auto (ask the driver)."
)

DEFAULT_PROFILE = Path(".subopt/profile.json")


def check_can_write(path: Path) -> None:
    """Make sure that a file can be written, before the work that is to go into it; nothing is created.

    Raises:
        UsageError: The path is a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", f"name a file in it: -o {path / 'NAME'}")
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


def read_gpu_memory(text: str) -> int:
    """Return the bytes in `24G`, or for `auto` what the driver reports as the first GPU's memory."""
    if text != "auto":
        return parse_size(text)
    from subopt.profilers.device import gpu_status

    gpu = gpu_status()
    if gpu is None:
        raise UsageError("--gpu-mem auto found no NVIDIA GPU here", "give a size, such as 24G")
    return gpu.total_bytes


def describe_budget(text: str, budget: Budget) -> str:
    """Return how a size was read and how much of it a training run may fill."""
    return (
        f"{text} read as {format_bytes(budget.total_bytes)} ({budget.total_bytes:,} bytes), "
        f"{format_bytes(budget.usable_bytes)} of it usable"
    )
