"""Reading tensors and JSON from files that anybody may have written: no code runs, and the size stays that of the file.

`weights_only=True` alone leaves room for an archive that unpacks to a thousand times its size, for a list that holds
itself twice and twice again, and for a tensor of a terabyte that is one number seen often.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subopt.errors import first_line

DEEPEST = 50
# State of 8 bits shows itself as numbers of 32, and a small file is mostly its directory.
_TENSOR_PER_FILE = 8
_LEAST_ROOM = 1 << 20
_LONGEST_JSON = 10 << 20
_PLAIN = (str, int, float, complex, bytes, type(None), torch.dtype, torch.device)


def read_tensors(path: Path) -> Any:
    """Return what `torch.save` wrote: tensors, numbers and text in lists and dicts.

    Raises:
        ValueError: It is something else, is damaged, or holds more than a file of its size can.
    """
    size = path.stat().st_size
    _check_archive(path, size)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle makes its reader raise has no bounds
        raise ValueError(first_line(error)) from None
    # A value takes a byte at least; what is seen oftener than that holds itself again and again.
    _check_content(content, _LEAST_ROOM + _TENSOR_PER_FILE * size, most_values=size)
    return content


def read_json(path: Path) -> Any:
    """Return the content of a small JSON file.

    Raises:
        ValueError: It is not JSON, or too large.
        OSError: It cannot be read.
    """
    if path.stat().st_size > _LONGEST_JSON:
        raise ValueError("it is too large")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _check_archive(path: Path, size: int) -> None:
    """Make sure that it is an archive of uncompressed entries, as torch writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"it is not what torch saves: {error}") from None
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError("it unpacks to more than its size")


def _check_content(content: Any, most_bytes: int, *, most_values: int) -> None:
    pending: list[Iterator[Any]] = [iter([content])]
    values = 0
    while pending:
        value = next(pending[-1], pending)
        if value is pending:
            pending.pop()
            continue
        values += 1
        if values > most_values or len(pending) > DEEPEST:
            raise ValueError("it holds values without end")
        if isinstance(value, dict):
            pending.append(iter(value.values()))
        elif isinstance(value, list | tuple | set):
            pending.append(iter(value))
        elif isinstance(value, Tensor):
            if value.numel() * value.element_size() > most_bytes:
                raise ValueError("it holds a tensor larger than itself")
        elif not isinstance(value, _PLAIN):
            raise ValueError(f"it holds a {type(value).__name__}")
