"""How a race ended: the verdict first, what it is worth and cost, all runs, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import RenderableType

from ..findings.race import is_seeded, loss_at, loss_text, race_facts, rungs_of, sorted_runs
from ..findings.seeded_race import mean_loss
from ..text import DASH, facts, percent, section
from .table import Columns, TerminalColumn, item_table, noted

if TYPE_CHECKING:
    from subopt.profilers.record.race import Contestant, Race, Trial

_STYLES = {"going on": "bold green", "stopped": "", "diverged": "dim"}
_MOST_RUNS = 16


def race_report(race: Race, next_command: str | None) -> list[RenderableType]:
    """Return the sections of a race's result, in reading order.

    Args:
        race: The race.
        next_command: The command with which the winner's run goes on; None where there is no winner.
    """
    parts: list[RenderableType] = [race_facts_table(race)]
    if race.trials:
        parts.append(_contestants(race) if is_seeded(race) else section("Runs", _runs(race)))
    if race.left_out:
        pairs = [(item.method, item.reason) for item in race.left_out]
        parts.append(section("Not in the race", facts(pairs)))
    return [*parts, next_steps(race, next_command)]


def race_facts_table(race: Race) -> RenderableType:
    """Return who goes on, what that is worth and what it cost."""
    return section("Race", facts(race_facts(race)))


def next_steps(race: Race, next_command: str | None) -> RenderableType:
    """Return what to do next."""
    if next_command is None:
        return facts([("next", "the same command with --resume")])
    pairs = [("next", next_command)]
    if race.interrupted:
        pairs.append(("or", "decide the race: the same command with --resume and --minutes"))
    return facts(pairs)


def _runs(race: Race) -> RenderableType:
    runs = sorted_runs(race)
    columns: Columns[Trial] = (
        TerminalColumn("method", is_text=True, cell=lambda run: run.method),
        TerminalColumn("rate", cell=lambda run: f"{run.lr:.2g}"),
        TerminalColumn("state", is_text=True, cell=lambda run: _state(race, run)),
        TerminalColumn("step", cell=lambda run: f"{run.steps:,}"),
        *map(rung_column, rungs_of(runs)),
        TerminalColumn(
            "options", 9, is_text=True, cell=lambda run: options_text(run.options) or DASH
        ),
    )
    shown = runs[:_MOST_RUNS]
    hidden = len(runs) - len(shown)
    table = item_table(columns, shown, [_STYLES.get(run.status, "") for run in shown])
    return noted(table, f"and {hidden} more in race.json" if hidden else None)


def _state(race: Race, run: Trial) -> str:
    """A run's state; before the race is decided none that is stopped has been stopped for good."""
    return "paused" if race.winner is None and run.status == "stopped" else run.status


def rung_column(share: float) -> TerminalColumn[Trial]:
    """Return the column of the losses at a share of the run."""
    return TerminalColumn(
        f"loss\nat {percent(share)}", cell=lambda run: loss_text(loss_at(run, share))
    )


def _contestants(race: Race) -> RenderableType:
    """Return the methods of a race of an earlier version, each at its best setting."""
    columns: Columns[Contestant] = (
        TerminalColumn("method", is_text=True, cell=lambda one: one.method),
        TerminalColumn("rate", cell=lambda one: f"{one.lr:.2g}"),
        TerminalColumn("loss", cell=lambda one: loss_text(mean_loss(one))),
        TerminalColumn("against\nAdamW", cell=lambda one: _signed(one.difference)),
        TerminalColumn("its\nspread", 1, cell=lambda one: loss_text(one.difference_spread, 2)),
        TerminalColumn("verdict", is_text=True, cell=lambda one: one.verdict),
        TerminalColumn(
            "options", 5, is_text=True, cell=lambda one: options_text(one.options) or DASH
        ),
    )
    return section(f"Methods, by {race.metric}", item_table(columns, race.contestants))


def _signed(value: float | None) -> str:
    return DASH if value is None else f"{value:+.2g}"


def options_text(options: Mapping[str, object]) -> str:
    """Return options such as `period=50 betas=0.9,0.95`."""
    return " ".join(f"{name}={_value_text(value)}" for name, value in options.items())


def _value_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
