"""What a race found out: the table, the curves at equal time, and what may be said about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from .table import Columns, TerminalColumn, full_table

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Contestant, Race

_STYLES = {"better": "bold green", "baseline": "bold", "diverged": "dim", "worse": "dim"}
_LEGEND = {
    "loss": "{metric} after the same training time for everybody, mean over seeds",
    "spread": "the largest minus the smallest over seeds",
    "against AdamW": "mean over seeds of the difference to AdamW's loss at the same seed; below 0 is better",
    "verdict": "better or worse only where that difference is larger than its own spread",
}

_LEVELS = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS = "_.:-=+*#"


def race_report(race: Race) -> list[RenderableType]:
    """Return the sections of a race's result, in reading order."""
    curves = [
        (one.method, [loss for _, loss in mean_curve(counted_runs(race, one))])
        for one in race.contestants
        if one.losses
    ]
    title = (
        f"Race of {plural(len(race.contestants), 'method')}: {race.metric} after "
        f"{format_ms(1000 * race.horizon_seconds)} of training each"
    )
    legend = [(name, text.format(metric=race.metric)) for name, text in _LEGEND.items()]
    parts: list[RenderableType] = [
        section(title, _table(race.contestants)),
        section("Loss over the same time, low is good", RaceCurves(curves)),
        section("How to read this", facts(legend)),
    ]
    if race.left_out:
        pairs = [(item.method, item.reason) for item in race.left_out]
        parts.append(section("Not in the race", facts(pairs)))
    parts.append(section("In short", numbered(race_summary(race))))
    return parts


def _table(contestants: Sequence[Contestant]) -> RenderableType:
    columns: Columns[Contestant] = (
        TerminalColumn("method", is_text=True, cell=lambda one: one.method),
        TerminalColumn("lr", cell=lambda one: f"{one.lr:.2g}"),
        TerminalColumn(
            "options", 5, is_text=True, cell=lambda one: options_text(one.options) or DASH
        ),
        TerminalColumn("loss", cell=lambda one: loss_text(mean_loss(one))),
        TerminalColumn(
            "seeds'\nspread", priority=4, cell=lambda one: loss_text(loss_spread(one), 2)
        ),
        TerminalColumn("against\nAdamW", cell=_difference),
        TerminalColumn("its\nspread", priority=1, cell=_difference_spread),
        TerminalColumn("verdict", is_text=True, cell=lambda one: one.verdict),
        TerminalColumn(
            "steps", priority=6, cell=lambda one: f"{one.steps:,}" if one.steps else DASH
        ),
        TerminalColumn("a step", priority=3, cell=lambda one: format_ms(one.step_ms)),
        TerminalColumn("tokens/s", priority=7, cell=_rate),
        TerminalColumn("state", priority=8, cell=lambda one: format_bytes(one.state_bytes)),
    )
    styles = [_STYLES.get(one.verdict, "") for one in contestants]
    return full_table(columns, contestants, styles)


def _difference(contestant: Contestant) -> str:
    return DASH if contestant.difference is None else f"{contestant.difference:+.2g}"


def _difference_spread(contestant: Contestant) -> str:
    has_several = len(contestant.losses) > 1
    return loss_text(contestant.difference_spread if has_several else None, digits=2)


def _rate(contestant: Contestant) -> str:
    rate = tokens_per_s(contestant)
    return DASH if rate is None else count(rate)


def loss_text(value: float | None, digits: int = 4) -> str:
    """Return a loss with so many digits that count, a dash for None."""
    return DASH if value is None else f"{value:.{digits}g}"


def options_text(options: Mapping[str, object]) -> str:
    """Return options such as `period=50 betas=0.9,0.95`."""
    return " ".join(f"{name}={_value_text(value)}" for name, value in options.items())


def _value_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


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
