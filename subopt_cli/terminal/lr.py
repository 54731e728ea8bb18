"""Learning rates against each other: a row for each, with its loss at every rung and a bar."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType

from ..findings.race import loss_at, race_facts, rungs_of
from ..text import facts, percent, section
from .race import next_steps, rung_column
from .table import Columns, TerminalColumn, full_table

if TYPE_CHECKING:
    from subopt.profilers.record.race import Race, Trial

_WIDTH = 30  # cells of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def lr_report(race: Race, next_command: str | None) -> list[RenderableType]:
    """Return what came out for the rates of one method, in reading order.

    Args:
        race: A race of one method.
        next_command: The command with which the best rate's run goes on; None where there is none.
    """
    method = race.trials[0].method if race.trials else race.baseline
    return [
        section(f"Learning rate of {method}", facts(race_facts(race))),
        section(f"Rates, by {race.metric}", RatePlot(race.trials)),
        next_steps(race, next_command),
    ]


@dataclass(frozen=True)
class RatePlot:
    """The runs of one method by their rate: the losses, how each ended, and a bar; a short one is good.

    The bars begin at the lowest loss of the first rung, which all runs came to. They end at twice the median's distance
    from it: a rate that all but diverges would flatten the others.

    Attributes:
        runs: The runs, in any order.
    """

    runs: Sequence[Trial]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        runs, rungs = sorted(self.runs, key=lambda run: run.lr), rungs_of(self.runs)
        firsts = [None if not rungs else loss_at(run, rungs[0]) for run in runs]
        known = [loss for loss in firsts if loss is not None]
        low = min(known, default=0.0)
        span = min(2 * (statistics.median(known) - low), max(known) - low) if known else 0.0
        bars = {
            run.lr: _bar(loss, low, span, is_ascii=options.ascii_only)
            for run, loss in zip(runs, firsts, strict=True)
        }
        heading = f"loss at {percent(rungs[0])}, short is good" if rungs else ""
        columns: Columns[Trial] = (
            TerminalColumn("rate", cell=lambda run: f"{run.lr:.2g}"),
            *map(rung_column, rungs),
            TerminalColumn("state", is_text=True, cell=_state),
            TerminalColumn(heading, 1, is_text=True, cell=lambda run: bars[run.lr]),
        )
        yield full_table(
            columns, runs, ["bold" if run.status == "going on" else "" for run in runs]
        )


def _state(run: Trial) -> str:
    return "chosen" if run.status == "going on" else run.status


def _bar(loss: float | None, low: float, span: float, *, is_ascii: bool) -> str:
    """Return a bar as long as a loss is above the lowest; one that diverged has none, and one cut short ends in `>`."""
    if loss is None:
        return ""
    share = (loss - low) / span if span > 0 else 0.0
    is_cut, share = share > 1, min(share, 1.0)
    eighths = max(1, round(8 * _WIDTH * share))
    whole, rest = divmod(eighths, 8)
    if is_ascii:
        return "#" * max(1, round(_WIDTH * share)) + (">" if is_cut else "")
    return _EIGHTHS[8] * whole + _EIGHTHS[rest].strip() + (">" if is_cut else "")
