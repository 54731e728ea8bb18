"""Text and JSON Lines files, plain or compressed, read in shards: ranges of bytes that can be entered on their own.

A shard is 64 KiB of a plain file. A compressed file cannot be entered in the middle and is one shard.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from subopt.errors import FileFormatError
from subopt.profilers.record.data import FileFormat

from .digest import file_digest
from .paths import needing

PIECE_BYTES = 2**16
_MOST_LINE_BYTES = 2**24
_SHOWN_KEYS = 6
_BOM = b"\xef\xbb\xbf"


class _LineFile(ABC):
    """What the two formats have in common: shards, compression, and errors that name the line."""

    def __init__(self, path: Path) -> None:
        self.path = self.source = path
        self._size = path.stat().st_size
        self._is_compressed = path.suffix in {".gz", ".zst"}
        # Now: later a missing package would be told of late, and a user's own pyarrow.py would take its place.
        self._arrow: Any = None
        if path.suffix == ".zst":
            with needing("pyarrow", "export", path):
                import pyarrow

                self._arrow = pyarrow

    def __len__(self) -> int:
        return 1 if self._is_compressed else math.ceil(self._size / PIECE_BYTES)

    def digest(self) -> int:
        """Return a number that changes when the file does."""
        return file_digest(self.path)

    def documents(self, shard: int) -> Iterator[str]:
        """Yield the texts of a shard, none of them empty."""
        first = shard * PIECE_BYTES
        stop = None if self._is_compressed else first + PIECE_BYTES
        try:
            with self._open() as stream:
                if first:
                    stream.seek(first - 1)
                yield from self._texts(stream, first, stop)
        except (OSError, EOFError, zlib.error) as error:
            raise FileFormatError(f"{self.path} cannot be read: {error}") from None

    @abstractmethod
    def _texts(self, stream: BinaryIO, first: int, stop: int | None) -> Iterator[str]:
        """Yield the texts that begin from `first` on and before `stop`; the stream stands just before `first`."""

    def _open(self) -> BinaryIO:
        if self.path.suffix == ".gz":
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        if self._arrow is not None:
            return io.BufferedReader(self._arrow.CompressedInputStream(str(self.path), "zstd"))
        return self.path.open("rb")

    def _decoded(self, content: bytes, offset: int) -> str:
        try:
            return content.removeprefix(_BOM if offset == 0 else b"").decode("utf-8")
        except UnicodeDecodeError as error:
            line = self._line_number(offset) + content.count(b"\n", 0, error.start)
            raise FileFormatError(
                f"{self.path}, line {line}: not UTF-8", "convert the file: iconv -t UTF-8"
            ) from None

    def _line_number(self, offset: int) -> int:
        """Count lines up to an offset, for a message: shards are read without knowing their lines."""
        number = 1
        with self._open() as stream:
            while offset > 0 and (chunk := stream.read(min(offset, 2**20))):
                number += chunk.count(b"\n")
                offset -= len(chunk)
        return number


class TextFile(_LineFile):
    """A text file: one document, or where it is longer than 64 KiB, one for about every 64 KiB, cut at line ends."""

    format: ClassVar[FileFormat] = "text"

    def _texts(self, stream: BinaryIO, first: int, stop: int | None) -> Iterator[str]:
        for offset, piece in _pieces(stream, first, stop):
            text = self._decoded(piece, offset)
            if text:
                yield text


class JsonLinesFile(_LineFile):
    """A file with a JSON object in every line, each with a text under `field`: null or empty, it is passed over."""

    format: ClassVar[FileFormat] = "jsonl"

    def __init__(self, path: Path, field: str) -> None:
        super().__init__(path)
        self._field = field

    def _texts(self, stream: BinaryIO, first: int, stop: int | None) -> Iterator[str]:
        for offset, line in _lines(stream, first, stop):
            if len(line) > _MOST_LINE_BYTES:
                raise self._error(
                    offset,
                    f"longer than {_MOST_LINE_BYTES >> 20} MiB",
                    "is it JSON Lines, with one object per line? Split documents as long as this",
                )
            decoded = self._decoded(line, offset)
            if decoded.strip():
                text = self._text(decoded, offset)
                if text:
                    yield text

    def _text(self, line: str, offset: int) -> str | None:
        try:
            content: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise self._error(
                offset, f"not JSON: {what}", "JSON Lines has one object in every line"
            ) from None
        if not isinstance(content, dict):
            raise self._error(offset, "not a JSON object", 'write it like {"text": "..."}')
        if self._field not in content:
            raise self._error(offset, *no_field(self._field, list(content)))
        text = content[self._field]
        if text is not None and not isinstance(text, str):
            raise self._error(
                offset,
                f"'{self._field}' is of type {type(text).__name__} and not text",
                "set data.files.field to the key that holds the text",
            )
        if text is None or text.isascii():
            return text
        # Half of a pair of escapes, as a text cut by UTF-16 units ends in, is no character: it becomes U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _error(self, offset: int, what: str, hint: str) -> FileFormatError:
        return FileFormatError(f"{self.path}, line {self._line_number(offset)}: {what}", hint)


def no_field(field: str, known: list[str]) -> tuple[str, str]:
    """Return what to say of a field that is not there, and what to do."""
    more = f" and {len(known) - _SHOWN_KEYS} more" if len(known) > _SHOWN_KEYS else ""
    listed = ", ".join(key[:40] for key in known[:_SHOWN_KEYS]) + more
    return f"no field '{field}'; it has: {listed or 'none'}", "set data.files.field to one of them"


def _pieces(stream: BinaryIO, first: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of a text that nominally begin in [first, stop), each with its offset.

    Args:
        stream: Stands at `first - 1`, or at 0.
        first: A multiple of the piece's length.
        stop: Where to end; None is the end of the file.
    """
    base = max(first - 1, 0)
    buffer = stream.read(first + PIECE_BYTES - base)
    nominal, start = first, -1
    while buffer and (stop is None or nominal < stop):
        buffer += stream.read(PIECE_BYTES)
        start = _boundary(buffer, base, nominal) if start < 0 else start
        end = _boundary(buffer, base, nominal + PIECE_BYTES)
        if end > start:
            yield start, buffer[start - base : end - base]
        nominal, start = nominal + PIECE_BYTES, end
        buffer, base = buffer[nominal - 1 - base :], nominal - 1


def _boundary(buffer: bytes, base: int, nominal: int) -> int:
    """Return where the piece begins that nominally does at `nominal`: after a line's end, else at a character."""
    if nominal == 0:
        return 0
    at = nominal - base
    line_end = buffer.find(b"\n", at - 1, at - 1 + PIECE_BYTES)
    if line_end >= 0:
        return base + line_end + 1
    while at < len(buffer) and buffer[at] & 0xC0 == 0x80:  # inside a character of UTF-8
        at += 1
    return base + min(at, len(buffer))


def _lines(stream: BinaryIO, first: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin in [first, stop), each with its offset; the stream stands at `first - 1`, or at 0.

    Of a line that is longer than any may be, its beginning is given.
    """
    at = max(first - 1, 0)
    if first > 0:
        rest = stream.readline(PIECE_BYTES)
        at += len(rest)
        if not rest.endswith(b"\n"):  # one line, from before this shard to beyond it
            return
    while stop is None or at < stop:
        line = stream.readline(_MOST_LINE_BYTES + 1)
        if not line:
            return
        yield at, line
        at += len(line)
