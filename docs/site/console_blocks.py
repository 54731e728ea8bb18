"""The console blocks of a page: what was typed, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        start: Where its text begins in the page.
        text: Its text without the fences.
        commands: Its lines after `$ `, with the lines that a backslash continues.
    """

    start: int
    text: str
    commands: tuple[str, ...]


def console_blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page, in order."""
    for found in _BLOCK.finditer(page):
        commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", found[1], re.MULTILINE)
        yield Block(found.start(1), found[1].rstrip("\n"), tuple(commands))
