"""Which files a recipe means: paths and patterns relative to its folder, and names of the Hugging Face hub."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from subopt.errors import UsageError
from subopt.profilers.record.data import FileFormat, Files

HUB = "hf:"
BYTES = "bytes"
_JSON_LINES = {".jsonl", ".ndjson", ".json"}
_PARQUET = {".parquet", ".pq"}
_OF_DATA_SET = ("dataset_dict.json", "state.json")
_EXAMPLE = "write data.files.train like texts/*.txt, relative to the recipe"


@dataclass(frozen=True)
class Place:
    """One file, or one data set.

    Attributes:
        path: The file or folder, or None for a data set of the hub.
        format: What it is.
        name: A data set's `[CONFIG:]SPLIT` on disk, or its whole name on the hub; else nothing.
    """

    path: Path | None
    format: FileFormat
    name: str = ""


def expand(entries: Sequence[str], base: Path, form: FileFormat | None) -> list[Place]:
    """Return what the entries name, each once, the files of a pattern sorted by name.

    Raises:
        UsageError: An entry that names nothing, or something that is no file.
    """
    return list(dict.fromkeys(place for entry in entries for place in _named(entry, base, form)))


@contextmanager
def needing(package: str, extra: str, what: object) -> Iterator[None]:
    """Turn a package that is missing inside the block into an error that says what needs it, and how to install it."""
    try:
        yield
    except ImportError:
        raise UsageError(f"{what} needs {package}", f"pip install 'subopt[{extra}]'") from None


def existing(place: str, base: Path) -> Path | None:
    """Return the file or folder of that name, if there is one."""
    try:
        path = base / Path(place).expanduser()
        return path.resolve() if place and path.exists() else None
    except (RuntimeError, OSError, ValueError):  # nobody's home, too long a name, a null character
        return None


def moved(files: Files, base: Path, to: Path) -> Files:
    """Return the same files as they are named from the folder `to`; absolute paths stay as they are."""

    def move(entry: str) -> str:
        path = Path(entry).expanduser()
        if path.is_absolute():
            return entry
        if _is_pattern(entry, base):  # and no folder that it goes through is a part of the pattern
            root, folder = (Path(glob.escape(str(place.resolve()))) for place in (base, to))
            return seen_from(folder, root / path)
        return seen_from(to.resolve(), base.resolve() / path)

    return _with_places(files, move)


def relative(files: Files, to: Path) -> Files:
    """Return files of absolute paths as they are named from the folder `to`."""
    return _with_places(files, lambda entry: seen_from(to.resolve(), Path(entry)))


def _is_pattern(entry: str, base: Path) -> bool:
    return glob.has_magic(entry) and existing(entry, base) is None


def seen_from(folder: Path, path: Path) -> str:
    """Return an absolute path as it is named from a folder, which is absolute too."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return str(path)


def absolute(files: Files, base: Path) -> Files:
    """Return the same files by absolute paths."""

    def place(entry: str) -> str:
        folder = str(base.resolve())
        root = glob.escape(folder) if _is_pattern(entry, base) else folder
        return os.path.normpath(root / Path(entry).expanduser())

    return _with_places(files, place)


def _with_places(files: Files, change: Callable[[str], str]) -> Files:
    def place(entry: str) -> str:
        return entry if entry.startswith(HUB) else change(entry)

    tokenizer = files.tokenizer if files.tokenizer == BYTES else place(files.tokenizer)
    train, held_out = ([place(entry) for entry in part] for part in (files.train, files.eval))
    return files.model_copy(update={"train": train, "eval": held_out, "tokenizer": tokenizer})


def _named(entry: str, base: Path, form: FileFormat | None) -> list[Place]:
    if entry.startswith(HUB):
        return [Place(None, "dataset", entry.removeprefix(HUB))]
    path = existing(entry, base)
    if path is not None:
        return [_place(path, entry, form)]
    folder, colon, split = entry.rpartition(":")
    path = existing(folder, base) if colon else None
    if path is not None and path.is_dir():
        return [Place(path, "dataset", split)]
    pattern = str(Path(entry).expanduser())  # it may be absolute, which Path.glob does not take
    matches = [base / match for match in glob.glob(pattern, root_dir=base, recursive=True)]  # noqa: PTH207
    files = [match.resolve() for match in sorted(matches) if match.is_file()]
    if not files:
        what = "no file matches" if glob.has_magic(entry) else "there is no file"
        raise UsageError(f"{what} {entry} in {base.resolve()}", _EXAMPLE)
    return [_place(file, entry, form) for file in files]


def _place(path: Path, entry: str, form: FileFormat | None) -> Place:
    if path.is_dir():
        if not any((path / name).is_file() for name in _OF_DATA_SET):
            raise UsageError(
                f"{entry} is a folder, and no data set that save_to_disk wrote",
                f"name the files in it: {entry.rstrip('/')}/*.txt",
            )
        return Place(path, "dataset")
    if not path.is_file():
        raise UsageError(f"{entry} is not a regular file", _EXAMPLE)
    return Place(path, form or _format_of(path))


def _format_of(path: Path) -> FileFormat:
    """Return the format by a name's end; what has no other is text."""
    suffixes = [suffix.lower() for suffix in path.suffixes] or [""]
    last = suffixes[-1]
    if last in {".gz", ".zst"}:
        last = (suffixes[:-1] or [""])[-1]
    if last in _PARQUET:
        return "parquet"
    return "jsonl" if last in _JSON_LINES else "text"
