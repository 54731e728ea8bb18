"""What a race found out: the table, the curves at equal time, and what may be said about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from ..findings.race import (
    counted_runs,
    loss_spread,
    mean_curve,
    mean_loss,
    race_summary,
    tokens_per_s,
)
from ..text import DASH, count, facts, numbered, plural, section
from ..units import format_bytes, format_ms
from .table import FittingTable, TerminalColumn

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Contestant, Race

_COLUMNS = (
    TerminalColumn("method", is_text=True),
    TerminalColumn("lr"),
    TerminalColumn("options", priority=5, is_text=True),
    TerminalColumn("loss"),
    TerminalColumn("seeds'\nspread", priority=4),
    TerminalColumn("against\nAdamW"),
    TerminalColumn("its\nspread", priority=1),
    TerminalColumn("verdict", is_text=True),
    TerminalColumn("steps", priority=6),
    TerminalColumn("a step", priority=3),
    TerminalColumn("tokens/s", priority=7),
    TerminalColumn("state", priority=8),
)
_STYLES = {"better": "bold green", "baseline": "bold", "diverged": "dim", "worse": "dim"}
_LEGEND = (
    ("loss", "{metric} after the same training time for everybody, mean over seeds"),
    ("spread", "the largest minus the smallest over seeds"),
    (
        "against AdamW",
        "mean over seeds of the difference to AdamW's loss at the same seed; below 0 is better",
    ),
    ("verdict", "better or worse only where that difference is larger than its own spread"),
)

_LEVELS = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS = "_.:-=+*#"


def race_report(race: Race) -> list[RenderableType]:
    """Return the sections of a race's result, in reading order."""
    ran = [contestant for contestant in race.contestants if contestant.losses]
    title = (
        f"Race of {plural(len(race.contestants), 'method')}: {race.metric} after "
        f"{format_ms(1000 * race.horizon_seconds)} of training each"
    )
    parts: list[RenderableType] = [
        section(title, FittingTable(_COLUMNS, *_rows(race))),
        section("Loss over the same time, low is good", RaceCurves(_curves(race, ran))),
        section("How to read this", facts([(n, t.format(metric=race.metric)) for n, t in _LEGEND])),
    ]
    if race.left_out:
        pairs = [(item.method, item.reason) for item in race.left_out]
        parts.append(section("Not in the race", facts(pairs)))
    parts.append(section("In short", numbered(race_summary(race))))
    return parts


def _rows(race: Race) -> tuple[list[list[str]], list[str]]:
    rows = [_cells(contestant) for contestant in race.contestants]
    return rows, [_STYLES.get(contestant.verdict, "") for contestant in race.contestants]


def _cells(contestant: Contestant) -> list[str]:
    difference, spread = contestant.difference, contestant.difference_spread
    several = len(contestant.losses) > 1
    return [
        contestant.method,
        f"{contestant.lr:.2g}",
        options_text(contestant.options) or DASH,
        loss_text(mean_loss(contestant)),
        loss_text(loss_spread(contestant), digits=2),
        DASH if difference is None else f"{difference:+.2g}",
        loss_text(spread, digits=2) if several else DASH,
        contestant.verdict,
        f"{contestant.steps:,}" if contestant.steps else DASH,
        format_ms(contestant.step_ms),
        DASH if (rate := tokens_per_s(contestant)) is None else count(rate),
        format_bytes(contestant.state_bytes),
    ]


def loss_text(value: float | None, digits: int = 4) -> str:
    """Return a loss with so many digits that count, a dash for None."""
    return DASH if value is None else f"{value:.{digits}g}"


def options_text(options: dict[str, object] | object) -> str:
    """Return options such as `period=50 betas=0.9,0.95`."""
    if not isinstance(options, dict):
        return ""
    return " ".join(f"{name}={_value_text(value)}" for name, value in options.items())


def _value_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _curves(race: Race, ran: Sequence[Contestant]) -> list[tuple[str, list[float]]]:
    return [
        (contestant.method, [loss for _, loss in mean_curve(counted_runs(race, contestant))])
        for contestant in ran
    ]


@dataclass(frozen=True)
class RaceCurves:
    """Named curves as one line of blocks each, all on the same scale.

    The scale ends at the median of the curves' first points: a method that begins high would flatten the others.

    Attributes:
        curves: Names and values.
    """

    curves: Sequence[tuple[str, Sequence[float]]]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        drawn = [(name, values) for name, values in self.curves if values]
        if not drawn:
            yield Text("no run has ended", style="dim")
            return
        low = min(min(values) for _, values in drawn)
        firsts = sorted(values[0] for _, values in drawn)
        span = max(firsts[len(firsts) // 2] - low, 0.0)
        levels = _PLAIN_LEVELS if options.ascii_only else _LEVELS
        pairs = []
        for name, values in drawn:
            line = "".join(_block(value - low, span, levels) for value in values)
            pairs.append((name, f"{line}  {values[0]:.3g} to {values[-1]:.3g}"))
        yield facts(pairs)


def _block(height: float, span: float, levels: str) -> str:
    share = min(1.0, height / span) if span else 0.0
    return levels[round(share * (len(levels) - 1))]
