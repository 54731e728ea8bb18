"""Parquet files and Hugging Face data sets, read in shards: row groups of the one, 64 rows of the other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from subopt.errors import FileFormatError, UsageError
from subopt.profilers.record.data import FileFormat
from subopt.profilers.target.hf_config import in_short

from .digest import combined, file_digest
from .hub import cache_alone_unless_it_answers
from .lines import no_field
from .paths import Place, needing

_ROWS = 64
_READ_BYTES = 2**20
# Between the parts of a name, and not within the brackets of a slice, train[95%:].
_COLON = re.compile(r":(?![^\[]*\])")
# Of a data set without a named split, in this order.
_SPLITS = {"train": ("train",), "eval": ("validation", "test", "valid", "dev")}


class ParquetFile:
    """A Parquet file with a column of text: a document in every row. Empty texts and nulls are passed over.

    Raises:
        UsageError: pyarrow is missing.
        FileFormatError: It is no Parquet file, or has no such column of text.
    """

    format: ClassVar[FileFormat] = "parquet"

    def __init__(self, path: Path, field: str) -> None:
        with needing("pyarrow", "export", path):
            import pyarrow
            from pyarrow import parquet
        self.path = self.source = path
        self._field = field
        self._parquet, self._errors = parquet, (pyarrow.ArrowException, OSError, UnicodeDecodeError)
        with self._reading(), self._open() as file:
            self._groups = int(file.num_row_groups)
            schema = file.schema_arrow
        if field not in schema.names:
            what, hint = no_field(field, schema.names)
            raise FileFormatError(f"{path}: {what}", hint)
        column_type, types = schema.field(field).type, pyarrow.types
        if types.is_dictionary(column_type):
            column_type = column_type.value_type
        if not (types.is_string(column_type) or types.is_large_string(column_type)):
            raise _not_text(str(path), field, str(column_type))

    def __len__(self) -> int:
        return self._groups

    def digest(self) -> int:
        """Return a number that changes when the file does."""
        return file_digest(self.path)

    def documents(self, shard: int) -> Iterator[str]:
        """Yield the texts of a row group."""
        with self._reading(), self._open() as file:
            for batch in file.iter_batches(_ROWS, row_groups=[shard], columns=[self._field]):
                yield from filter(None, batch.column(0).to_pylist())

    def _open(self) -> Any:
        # Pages as they are needed: a row group may be larger than memory.
        return self._parquet.ParquetFile(
            self.path, buffer_size=_READ_BYTES, pre_buffer=False, memory_map=False
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            what = f"{self.path} cannot be read as Parquet: {in_short(error)}"
            raise FileFormatError(what) from None


class DataSet:
    """A Hugging Face data set with a column of text: a document in every row. Empty texts and nulls are passed over.

    Args:
        place: A folder that `save_to_disk` wrote, or a name of the hub, with a split or without.
        field: The column's name.
        part: What it is for, which decides the split where none is named.

    Raises:
        UsageError: The datasets package is missing, or there is no such data set or split.
        FileFormatError: The data set has no such column of text.
    """

    format: ClassVar[FileFormat] = "dataset"

    def __init__(self, place: Place, field: str, part: str) -> None:
        self.path = place.path
        self._name = place.name if place.path is None else str(place.path)
        found = _split(_load(place, part), place, part, self._name)
        if field not in found.column_names:
            what, hint = no_field(field, found.column_names)
            raise FileFormatError(f"{self._name}: {what}", hint)
        column_type = getattr(found.features[field], "dtype", "nested")
        if column_type not in {"string", "large_string"}:
            raise _not_text(self._name, field, column_type)
        self._rows = found.select_columns([field]).with_format(None)
        self._field = field
        files = [file["filename"] for file in found.cache_files]
        # A slice of a split has the split's files; what is in memory alone has none.
        self.source = (str(found.split), len(found), *(files or [self._name, place.name or part]))
        self._files, self._ranges = frozenset(files), _row_ranges(found)

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / _ROWS)

    def shares_rows_with(self, other: object) -> bool:
        """Return whether some rows are in both, or may be: where two slices of one file are not distinguished."""
        if not isinstance(other, DataSet) or not self._files & other._files:
            return False
        if self._ranges is None or other._ranges is None:
            return True
        return any(
            own.split == its.split and own.begin < its.end and its.begin < own.end
            for own in self._ranges
            for its in other._ranges
        )

    def digest(self) -> int:
        """Return a number that changes when the data set's files do."""
        files = [Path(file["filename"]) for file in self._rows.cache_files]
        return combined([len(self._rows), *map(file_digest, files)])

    def documents(self, shard: int) -> Iterator[str]:
        """Yield the texts of 64 rows."""
        rows = self._rows[shard * _ROWS : (shard + 1) * _ROWS]
        yield from filter(None, rows[self._field])


class _Rows(NamedTuple):
    """Consecutive rows of a whole split."""

    split: str
    begin: int
    end: int


def _row_ranges(found: Any) -> list[_Rows] | None:
    """Return which rows of which split a data set is, None where it does not say so."""
    import datasets

    lengths = {name: split.num_examples for name, split in (found.info.splits or {}).items()}
    try:
        parts = datasets.ReadInstruction.from_spec(str(found.split)).to_absolute(lengths)
    except (ValueError, AssertionError, TypeError):  # no split's name, or one of unknown length
        return None
    return [_Rows(part.splitname, part.from_, part.to) for part in parts]


def _load(place: Place, part: str) -> Any:
    with needing("the datasets package", "hf", place.path or place.name):
        import datasets
    if place.path is not None:
        try:
            return datasets.load_from_disk(str(place.path))
        except Exception as error:  # whatever a damaged folder makes the library raise
            raise FileFormatError(
                f"{place.path} cannot be read as a data set: {in_short(error)}",
                "name a folder that save_to_disk wrote",
            ) from None
    name, *rest = _COLON.split(place.name)
    config = rest[0] if len(rest) > 1 else None
    split = rest[-1] if rest else None
    try:
        with cache_alone_unless_it_answers():
            return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # a wrong name or split, the network
        raise UsageError(
            f"the data set {place.name} cannot be loaded: {in_short(error)}",
            "write it like hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT; or name a folder of save_to_disk",
        ) from None


def _split(loaded: Any, place: Place, part: str, name: str) -> Any:
    """Return the one split that was named, or else the usual one for this part."""
    if not isinstance(loaded, dict):
        if place.path is not None and place.name:
            raise UsageError(f"{name} has no splits", "leave out what follows the colon")
        return loaded
    wanted = (place.name,) if place.path is not None and place.name else _SPLITS[part]
    for split in wanted:
        if split in loaded:
            return loaded[split]
    raise UsageError(
        f"{name} has no split {' or '.join(wanted)}; it has: {', '.join(map(str, loaded))}",
        "name one after a colon: NAME:SPLIT",
    )


def _not_text(where: str, field: str, column_type: str) -> FileFormatError:
    return FileFormatError(
        f"{where}: '{field}' is a column of {column_type} and not of text",
        "set data.files.field to the column that holds the text",
    )
