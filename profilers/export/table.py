"""What one exported table is: its columns with their types, and how its rows are taken from a profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..record.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

# Types that hold missing values as such, so that a column of integers stays one.
TEXT, INTEGER, REAL, FLAG = "string", "Int64", "Float64", "boolean"


def fields_of(record: object | None, *names: str) -> tuple[Any, ...]:
    """Return a record's values of these fields, None for each where there is no record."""
    return tuple(None if record is None else getattr(record, name) for name in names)


@dataclass(frozen=True)
class ExportTable:
    """One table.

    Attributes:
        name: Its name, and its file's.
        holds: What a row is.
        columns: The columns in order, with their types.
        rows: Yields the rows of a profile, a value per column, None where it is missing.
    """

    name: str
    holds: str
    columns: Mapping[str, str]
    rows: Callable[[Profile], Iterable[Sequence[Any]]]

    def frame(self, profile: Profile) -> pd.DataFrame:
        """Return the table, with all of its columns even where it has no rows."""
        import pandas as pd

        # By way of objects: integers beside missing values would become floats, which are exact up to 2^53 only.
        rows = list(self.rows(profile))
        return pd.DataFrame(rows, columns=list(self.columns), dtype=object).astype(
            dict(self.columns)
        )
