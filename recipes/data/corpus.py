"""The documents of many files, numbered by shards: parts that can be read on their own, in any order."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from subopt.errors import PreflightError, UsageError
from subopt.profilers.record.data import FileFormat, Files

from .lines import JsonLinesFile, TextFile
from .paths import HUB, Place, expand
from .tables import DataSet, ParquetFile

Part = Literal["train", "eval"]


class Sharded(Protocol):
    """A file in shards."""

    format: ClassVar[FileFormat]

    @property
    def source(self) -> object:
        """Equal for two that read the same documents, however they were named."""

    def __len__(self) -> int: ...
    def digest(self) -> int:
        """Return a number that changes when the file does."""

    def documents(self, shard: int) -> Iterator[str]:
        """Yield the texts of a shard, none of them empty.

        Raises:
            FileFormatError: The file cannot be read, or something in it is not what it should be.
        """


@dataclass(frozen=True)
class Corpus:
    """Some shards of some files, and what to call these; shards are numbered over all files."""

    files: Sequence[Sharded]
    names: Sequence[str]
    shards: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shards)

    def documents(self, shard: int) -> Iterator[str]:
        """Yield the texts of a shard, as its file does."""
        number = int(self.shards[shard])
        file = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self.files[file].documents(number - int(self._firsts[file]))

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """The number of every file's first shard."""
        counts = np.array([len(file) for file in self.files], np.int64)
        firsts: NDArray[np.int64] = np.cumsum(counts) - counts
        return firsts


_Named = tuple[str, Sharded]


def open_corpus(files: Files, base: Path) -> tuple[Corpus, Corpus | None]:
    """Return what is trained on and what is held out, None where nothing is; no document is read yet.

    Raises:
        UsageError: Nothing matches a pattern, a package is missing, or what is trained on would be held out too.
        FileFormatError: A file is not of its format.
        PreflightError: There is nothing to train on.
    """
    held_out = _opened(files.eval, files, base, "eval")
    training = {
        source: file
        for source, file in _opened(files.train, files, base, "train").items()
        if source not in held_out
    }
    if not training:
        raise UsageError(
            "every file of data.files.train is in data.files.eval too",
            "name files to train on that are not held out",
        )
    if held_out:
        pairs = itertools.product(training.values(), held_out.values())
        _check_apart(pairs, "data.files.eval")
    elif files.held_out:
        _check_apart(itertools.combinations(training.values(), 2), "data.files.train too")
    corpus = _corpus(training.values(), "train")
    if held_out:
        return corpus, _corpus(held_out.values(), "eval")
    return (corpus, None) if files.held_out == 0 else _divided(corpus, files.held_out)


def _opened(entries: Sequence[str], files: Files, base: Path, part: Part) -> dict[object, _Named]:
    """Return what the entries name, each once, by its source and with what to call it."""
    found: dict[object, _Named] = {}
    for place in expand(entries, base, files.format):
        file = _open(place, files.field, part)
        found.setdefault(file.source, (str(place.path or place.name), file))
    return found


def _check_apart(pairs: Iterable[tuple[_Named, _Named]], where: str) -> None:
    """Refuse data sets of which one holds rows of the other, which would be trained on and held out."""
    for (name, file), (other_name, other) in pairs:
        if isinstance(file, DataSet) and file.shares_rows_with(other):
            raise UsageError(
                f"{HUB}{name} has rows that are in {HUB}{other_name} of {where}: they would be trained on and held out",
                "name slices that do not overlap, such as NAME:train[:95%] to train on and NAME:train[95%:] in eval",
            )


def _corpus(named: Collection[_Named], part: Part) -> Corpus:
    names, opened = [name for name, _ in named], [file for _, file in named]
    total = sum(len(file) for file in opened)
    if total == 0:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise PreflightError(f"there is no text in {names[0]}{more}", f"see data.files.{part}")
    return Corpus(opened, names, np.arange(total))


def _open(place: Place, field: str, part: Part) -> Sharded:
    if place.format == "dataset" or place.path is None:
        return DataSet(place, field, part)
    if place.format == "parquet":
        return ParquetFile(place.path, field)
    return JsonLinesFile(place.path, field) if place.format == "jsonl" else TextFile(place.path)


def _divided(corpus: Corpus, share: float) -> tuple[Corpus, Corpus]:
    """Hold out a share of the shards, at least one, evenly spread: the same ones whatever the seed."""
    count = len(corpus)
    count_held_out = max(1, int(count * share))
    if count_held_out >= count:
        raise PreflightError(
            f"data.files.held_out {share:g} leaves nothing to train on: the files are read in {count} parts",
            "name files of their own in data.files.eval",
        )
    is_held_out = np.zeros(count, bool)
    is_held_out[(np.arange(count_held_out) + 1) * count // count_held_out - 1] = True
    train, apart = (
        Corpus(corpus.files, corpus.names, corpus.shards[which])
        for which in (~is_held_out, is_held_out)
    )
    return train, apart
