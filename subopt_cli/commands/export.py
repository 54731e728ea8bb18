"""`subopt export`: a profile as tables for pandas, R or a spreadsheet, and a recipe as a training script."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ._options import DEFAULT_PROFILE, Debug, check_can_write

DEFAULT_FOLDER = Path(".subopt/tables")


class TableFormat(str, Enum):
    """File formats."""

    csv = "csv"
    parquet = "parquet"


class Framework(str, Enum):
    """What an exported script is for."""

    loop = "loop"
    lightning = "lightning"
    trainer = "trainer"


def export(
    source: Annotated[
        Path, typer.Argument(help="What subopt profile wrote; with --to, a recipe.")
    ] = DEFAULT_PROFILE,
    to: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder to write, a file for each table; with --to, the script, printed where none is named.",
            show_default=str(DEFAULT_FOLDER),
        ),
    ] = None,
    framework: Annotated[
        Framework | None,
        typer.Option(
            "--to",
            help="Write a recipe as a training script: a plain loop, Lightning, or a Hugging Face Trainer.",
        ),
    ] = None,
    file_format: Annotated[
        TableFormat, typer.Option("--format", help="Parquet keeps types, and needs subopt[export].")
    ] = TableFormat.csv,
    table: Annotated[
        list[str] | None, typer.Option(help="Only this table; may be given several times.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a script that is already there.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a profile as tidy tables, or a recipe as a training script.

    Tables: layers, spectra, subspaces, diagonality, methods, memory and more; one observation in a row, units in the
    column names. In CSV a text that begins with = + - or @ gets an apostrophe before it, so that no spreadsheet runs it
    as a formula.

    Script: `subopt export recipe.yaml --to lightning -o train.py` writes the model, the optimizer, its schedule and the
    training with the recipe's numbers filled in. Writing it runs nothing; the script runs the model file.
    """
    if framework is None:
        _tables(source, to or DEFAULT_FOLDER, file_format, table)
    else:
        _script(source, framework, to, force=force)


def _script(recipe_path: Path, framework: Framework, to: Path | None, *, force: bool) -> None:
    from subopt.recipes.recipe.load import load_recipe
    from subopt.recipes.run_folder.disk import in_one_step
    from subopt.recipes.scripts.write import left_out, training_script

    from ..terminal.output import Output

    output = Output()
    recipe = load_recipe(recipe_path)
    base = recipe_path.parent
    folder = base if to is None else to.parent
    text = training_script(recipe, framework.value, base=base, folder=folder)
    if to is None:
        sys.stdout.write(text)
    else:
        check_can_write(to)
        if f"from {to.stem} import" in text or f"import {to.stem}\n" in text:
            raise UsageError(
                f"a script named {to.name} would hide the library of that name from itself",
                "name another file with -o, such as train.py",
            )
        if to.exists() and not force:
            raise UsageError(f"{to} exists", "name another file with -o, or overwrite it: --force")
        with in_one_step(to) as partial:
            partial.write_text(text, encoding="utf-8")
        output.note(f"wrote {to}; train with: python {to}")
    for part in left_out(recipe):
        output.note(f"left out: {part}")


def _tables(profile: Path, to: Path, file_format: TableFormat, table: list[str] | None) -> None:
    from subopt.profilers.export.frames import TABLES, save_frames, to_frames
    from subopt.profilers.record.profile import Profile

    from ..terminal.export import written_tables
    from ..terminal.output import Output

    output = Output()
    check_can_write(to / "layers.csv")
    frames = to_frames(Profile.load(profile), table)
    for name in frames:
        check_can_write(to / f"{name}.{file_format.value}")
    files = save_frames(frames, to, file_format.value)
    output.show(written_tables(files, [len(frame) for frame in frames.values()], TABLES))
    output.note(f"wrote {len(files)} tables to {to}")
