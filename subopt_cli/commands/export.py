"""`subopt export`: a profile as tables for pandas, R or a spreadsheet."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ._options import DEFAULT_PROFILE, Debug, check_can_write

DEFAULT_FOLDER = Path(".subopt/tables")


class Format(str, Enum):
    """File formats."""

    csv = "csv"
    parquet = "parquet"


def export(
    profile: Annotated[Path, typer.Argument(help="What subopt profile wrote.")] = DEFAULT_PROFILE,
    to: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write, a file for each table.")
    ] = DEFAULT_FOLDER,
    file_format: Annotated[
        Format, typer.Option("--format", help="Parquet keeps types, and needs subopt[export].")
    ] = Format.csv,
    table: Annotated[
        list[str] | None, typer.Option(help="Only this table; may be given several times.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a profile as tidy tables: layers, spectra, subspaces, diagonality, methods, memory and more.

    One observation in a row, units in the column names. In CSV a text that begins with = + - or @ gets an apostrophe
    before it, so that no spreadsheet runs it as a formula.
    """
    from subopt.profilers.export import TABLES, save_frames, to_frames
    from subopt.profilers.schema import Profile

    from ..output import Output
    from ..render_export import written_tables

    output = Output()
    check_can_write(to / "layers.csv")
    frames = to_frames(Profile.load(profile), table)
    for name in frames:
        check_can_write(to / f"{name}.{file_format.value}")
    files = save_frames(frames, to, file_format.value)
    output.show(written_tables(files, [len(frame) for frame in frames.values()], TABLES))
    output.note(f"wrote {len(files)} tables to {to}")
