"""A race as it goes, on stderr: a table of all runs that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..findings.race import loss_text, plan_sentence
from ..text import DASH, percent
from .progress import QUIET_S

if TYPE_CHECKING:
    from typing_extensions import Self

    from subopt.recipes.race.events import (
        Event,
        RacePlanned,
        RunRow,
        RunStepped,
        Stood,
        TimingSteps,
    )

    from .output import Output

_STYLES = {"training": "bold", "stopped": "dim", "diverged": "dim", "waiting": ""}
_MOST_ROWS = 16  # of the live table: a terminal has 24 lines


class RaceProgress:
    """Shows a race: call it with every event of `subopt.recipes.race.events`.

    Attributes:
        exit_status: What the command is to end with: 0, or after a signal 128 plus its number.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.exit_status = 0
        self._is_live = output.notes.is_terminal
        self._live = Live(
            console=output.notes, transient=True, auto_refresh=False, redirect_stdout=False
        )
        self._stood: Stood | None = None
        self._stepped: RunStepped | None = None
        self._timing: TimingSteps | None = None
        self._last_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        from subopt.recipes.race import events
        from subopt.recipes.training.events import Interrupting, Warned

        match event:
            case events.TimingSteps():
                self._time(event)
            case events.RacePlanned():
                self._plan(event)
            case events.Stood():
                self._stand(event)
            case events.RunStepped():
                self._step(event)
            case events.Dropped(left_out):
                self.output.warning(f"{left_out.method} is out: {left_out.reason}")
            case events.TimeUp():
                self.output.warning("the minutes are over before the race is decided")
            case events.Decided(method, lr, step):
                self.output.note(f"{method} lr {lr:.2g} goes on from step {step:,}")
            case Interrupting(name):
                self.exit_status = 128 + signal.Signals[name]
                self.output.note(
                    "interrupted: finishing this step and saving; nothing is lost, and --resume goes on "
                    "(once more to stop at once)"
                )
            case Warned(message, hint):
                self.output.warning(message + (f" ({hint})" if hint else ""))

    def _time(self, event: TimingSteps) -> None:
        if self._timing is None and not self._is_live:
            self.output.note("timing the steps ...")
        self._timing = event
        self._draw()

    def _plan(self, event: RacePlanned) -> None:
        self._timing = None
        self.output.note(plan_sentence(event.plan))

    def _stand(self, event: Stood) -> None:
        before, self._stood, self._stepped = self._stood, event, None
        if self._is_live:
            self._draw()
            return
        known = {(row.method, row.lr): row for row in before.rows} if before else {}
        for row in event.rows:
            was = known.get((row.method, row.lr))
            if row.state != "training" and row.step and (was is None or _told(was) != _told(row)):
                self.output.note(_line(row))

    def _step(self, event: RunStepped) -> None:
        self._stepped = event
        now_s = time.monotonic()
        if self._is_live:
            if now_s - self._last_s >= 0.1:
                self._last_s = now_s
                self._draw()
        elif now_s - self._last_s >= QUIET_S:
            self._last_s = now_s
            self.output.note(
                f"{event.method} lr {event.lr:.2g}: step {event.step:,} of {event.steps:,}, "
                f"loss {loss_text(event.loss)}"
            )

    def _draw(self) -> None:
        if self._is_live:
            self._live.update(self._drawn(), refresh=True)

    def _drawn(self) -> RenderableType:
        if self._timing is not None:
            timing = self._timing
            return _bar(f"step time of {timing.method}", timing.done, timing.total)
        stood = self._stood
        if stood is None:
            return Text("")
        rows = [_at(row, self._stepped) for row in stood.rows]
        done = sum(row.step / row.steps for row in rows)
        # What is least interesting goes first where there are more than fit.
        order = ("diverged", "stopped", "waiting", "going on", "training")
        hidden = sorted(rows, key=lambda row: order.index(row.state))[
            : max(0, len(rows) - _MOST_ROWS)
        ]
        table = _table([row for row in rows if row not in hidden])
        more = [Text(f"and {len(hidden)} more that stopped", style="dim")] if hidden else []
        return Group(table, *more, _bar("at most", done, stood.total_runs))


def _at(row: RunRow, stepped: RunStepped | None) -> RunRow:
    """Return a row with the step that its run has come to."""
    from dataclasses import replace

    if stepped is None or (row.method, row.lr) != (stepped.method, stepped.lr):
        return row
    return replace(row, step=max(row.step, stepped.step))


def _told(row: RunRow) -> tuple[int, str]:
    return (row.step, row.state)


def _line(row: RunRow) -> str:
    loss = "" if row.loss is None else f", loss {loss_text(row.loss)}"
    return f"{row.method} lr {row.lr:.2g}: step {row.step:,} of {row.steps:,}{loss}, {row.state}"


def _table(rows: list[RunRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, justify in (
        ("method", "left"), ("rate", "right"), ("step", "right"), ("of", "right"), ("loss", "right"),
        ("state", "left"),
    ):  # fmt: skip
        table.add_column(name, justify="left" if justify == "left" else "right", no_wrap=True)
    for row in rows:
        loss = DASH if row.loss is None else loss_text(row.loss)
        cells = [row.method, f"{row.lr:.2g}", f"{row.step:,}", f"{row.steps:,}", loss, row.state]
        table.add_row(*cells, style=_STYLES.get(row.state))
    return table


def _bar(name: str, done: float, total: float) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(
        Text(name),
        ProgressBar(total=max(total, 1e-9), completed=done, width=40),
        Text(percent(done / total if total else 0.0)),
    )
    return line
