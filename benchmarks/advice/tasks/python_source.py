"""The source of Python's standard library as bytes: real text that is on every machine with Python.

The corpus follows the Python version it runs under, so losses compare within one version only.
"""

import functools
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

VOCABULARY = 256
CONTEXT = 64
HELD_OUT_EVERY = 10  # every tenth block of a text is never trained on
BLOCK = 4096  # bytes


@functools.cache
def text_of(names: tuple[str, ...]) -> Tensor:
    """Return the bytes, int64, of these modules and packages of the standard library, in order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    for name in names:
        folder = root / name
        files += sorted(folder.glob("**/*.py")) if folder.is_dir() else [root / f"{name}.py"]
    text = b"".join(file.read_bytes() for file in files if "test" not in file.parts)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


@functools.cache
def blocks_of(names: tuple[str, ...], *, held_out: bool) -> Tensor:
    """Return the blocks of a text that are held out, or the others, int64 of shape (blocks, BLOCK)."""
    text = text_of(names)
    blocks = text[: len(text) // BLOCK * BLOCK].view(-1, BLOCK)
    chosen = (torch.arange(len(blocks)) % HELD_OUT_EVERY == 0) == held_out
    return blocks[chosen]


def random_windows(blocks: Tensor, generator: torch.Generator, count: int) -> Tensor:
    """Return windows of CONTEXT + 1 bytes from random places, shape (count, CONTEXT + 1)."""
    rows = torch.randint(len(blocks), (count, 1), generator=generator)
    starts = torch.randint(BLOCK - CONTEXT, (count, 1), generator=generator)
    return blocks[rows, starts + torch.arange(CONTEXT + 1)]


def fixed_windows(blocks: Tensor, count: int) -> Tensor:
    """Return `count` windows that are spread evenly over the blocks, the same every time."""
    places = torch.linspace(0, len(blocks) * BLOCK - 1, count).long()
    starts = (places % BLOCK).clamp(max=BLOCK - CONTEXT - 1)
    return blocks[(places // BLOCK)[:, None], starts[:, None] + torch.arange(CONTEXT + 1)]


def in_batches(windows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield the windows, at least 32 at a time: held-out batches need no gradients and may be larger."""
    yield from windows.split(max(batch_size, 32))


LIBRARY: Sequence[str] = (
    "argparse", "ast", "configparser", "csv", "datetime", "difflib", "doctest", "enum", "fractions",
    "ftplib", "functools", "heapq", "imaplib", "inspect", "ipaddress", "locale", "mailbox", "optparse",
    "pathlib", "pdb", "pickle", "platform", "plistlib", "pydoc", "random", "shutil", "smtplib", "socket",
    "statistics", "subprocess", "tarfile", "tempfile", "threading", "tokenize", "traceback", "turtle",
    "typing", "uuid", "warnings", "zipfile",
)  # fmt: skip
