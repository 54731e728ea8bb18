"""The winner of a race goes on: its run becomes the one that was asked for."""

from __future__ import annotations

from pathlib import Path

from subopt.profilers.record.race import Trial

from ..recipe.load import load_recipe
from ..run_folder.folder import RunFolder
from .candidates import Setting
from .folder import RaceFolder


def winner_folder(race: Path, winner: Trial) -> RunFolder:
    """Return the folder of the run that won, in the race's folder."""
    return RaceFolder(race).run_of(Setting(method=winner.method, lr=winner.lr))


def move_winner(race: Path, winner: Trial, output: Path) -> Path:
    """Make the winner's paused run that of another folder, and return its recipe there, to be resumed.

    Interrupted anywhere, it goes on when it is called again: the recipe is written first, and each part that is still
    in the race's folder moves after it. The race's folder stays, without that run.
    """
    source, target = winner_folder(race, winner), RunFolder(output)
    if source.recipe.exists():
        is_untouched = source.checkpoints.exists()  # they move first
        target.prepare(load_recipe(source.recipe), source.recipe, resume=not is_untouched)
    for old, new in (
        (source.checkpoints, target.checkpoints),
        (source.metrics, target.metrics),
        (source.best, target.best),
        (source.recipe, source.recipe.with_suffix(".moved")),
    ):
        if old.exists():
            old.replace(new)
    return target.recipe
