"""A profile as tidy tables: one observation per row, units in the column names, columns and types always the same.

Curves and histograms are long: a row per point. Missing is missing, never 0 or -1.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from subopt.errors import UsageError, suggestion

from ..record.profile import Profile
from .costs import COST_TABLES
from .layers import LAYER_TABLES
from .table import TEXT, ExportTable

if TYPE_CHECKING:
    import pandas as pd

TABLES: Mapping[str, ExportTable] = {table.name: table for table in (*LAYER_TABLES, *COST_TABLES)}

Format = Literal["csv", "parquet"]

# A spreadsheet takes a cell that begins like this for a formula, and runs it. Names of parameters, files and keyword
# arguments come from other people's code.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_frames(profile: Profile, names: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Return tables of a profile as data frames, by name: all of `TABLES`, or those named.

    Raises:
        UsageError: There is no such table.
    """
    for name in names or ():
        if name not in TABLES:
            known = ", ".join(TABLES)
            raise UsageError(
                f"there is no table '{name}'{suggestion(name, TABLES)}", f"one of: {known}"
            )
    return {name: TABLES[name].frame(profile) for name in dict.fromkeys(names or TABLES)}


def save_frames(
    frames: Mapping[str, pd.DataFrame], folder: Path, file_format: Format
) -> list[Path]:
    """Write every table to a file of its name in a folder, which is made; return the files.

    In CSV a text that begins with a character of `FORMULA_STARTS` gets an apostrophe before it, so that a spreadsheet
    shows it and does not run it. Parquet, whose cells nobody runs, keeps texts as they are.

    Args:
        frames: The tables by name.
        folder: Files there of the same names are replaced, others are left.
        file_format: Parquet keeps the columns' types, CSV has text alone.

    Raises:
        UsageError: pyarrow, which writes Parquet, is not installed.
    """
    if file_format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            "Parquet files need pyarrow, which is not installed",
            "pip install 'subopt[export]', or write --format csv",
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, frame in frames.items():
        path = folder / f"{name}.{file_format}"
        partial = path.with_name(path.name + ".partial")
        if file_format == "parquet":
            frame.to_parquet(partial, engine="pyarrow", index=False)
        else:
            harmless(frame).to_csv(partial, index=False, lineterminator="\n")
        partial.replace(path)
        written.append(path)
    return written


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with an apostrophe before every text that a spreadsheet would take for a formula.

    Carriage returns in texts become spaces.
    """
    guarded = frame.copy()
    for name in frame.columns[frame.dtypes == TEXT]:
        is_formula = frame[name].str.startswith(FORMULA_STARTS).fillna(False)
        guarded[name] = frame[name].where(~is_formula, "'" + frame[name])
        # A carriage return ends a row for many readers, and Python's writer does not quote it.
        guarded[name] = guarded[name].str.replace("\r", " ", regex=False)
    return guarded
