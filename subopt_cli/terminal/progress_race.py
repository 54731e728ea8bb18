"""The progress of a race on stderr: a bar with the trials, and a line for each that ends."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from ..text import plural
from ..units import format_ms
from .progress import Bar
from .race import loss_text, options_text

if TYPE_CHECKING:
    from rich.progress import TaskID

    from subopt.recipes.race.events import Event, Pacing, RacePlanned, TrialEnded, TrialStarted

    from .output import Output


class RaceProgress(Bar):
    """Shows a race: call it with every event of `subopt.recipes.race.events`.

    Attributes:
        exit_status: What the command is to end with: 0, or after a signal 128 plus its number.
    """

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self.exit_status = 0
        self._task: TaskID | None = None
        self._is_pacing = False

    def __call__(self, event: Event) -> None:
        """Show one event."""
        from subopt.recipes.race import events
        from subopt.recipes.training.events import Interrupting, Warned

        match event:
            case events.Pacing():
                self._pacing(event)
            case events.RacePlanned():
                self._planned(event)
            case events.TrialStarted():
                self._started(event)
            case events.TrialEnded():
                self._ended(event)
            case events.Dropped(left_out):
                self.output.warning(f"{left_out.method} is out: {left_out.reason}")
            case events.TimeUp():
                self.output.warning("the minutes are over before the race is")
            case Interrupting(name):
                self.exit_status = 128 + signal.Signals[name]
                self.output.note(
                    "interrupted: finishing this step; finished trials are kept (once more to stop at once)"
                )
            case Warned(message, hint):
                self.output.warning(message + (f" ({hint})" if hint else ""))
            case _:
                pass

    def _pacing(self, event: Pacing) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=event.total)
        if not self._is_pacing and not self.live:
            self.output.note("timing everybody's steps ...")
        self._is_pacing = True
        self._bar.update(
            self._task, completed=event.done, description=f"step time of {event.method}"
        )

    def _planned(self, event: RacePlanned) -> None:
        plan = event.plan
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task("", total=plan.total, completed=event.done)
        names = ", ".join(candidate.method for candidate in plan.contestants)
        most = min(plan.finalists, len(plan.contestants) - 1)
        finals = (
            f", then {plural(len(plan.seeds), 'seed')} of the best {most} and AdamW"
            if len(plan.seeds) > 1
            else ""
        )
        self.output.note(
            f"{names}: {plural(plan.trials, 'trial')} each of "
            f"{format_ms(1000 * plan.horizon_seconds)}{finals}"
        )
        if event.done:
            self.output.note(f"going on after {plural(event.done, 'trial')}")

    def _started(self, event: TrialStarted) -> None:
        if self._task is not None:
            order = event.order
            self._bar.update(
                self._task,
                completed=event.number - 1,
                total=event.total,
                description=f"{order.method} lr {order.lr:.2g}",
            )

    def _ended(self, event: TrialEnded) -> None:
        trial = event.trial
        if self._task is not None:
            self._bar.advance(self._task)
        options = options_text(trial.options)
        self.output.note(
            f"{trial.method} lr {trial.lr:.2g}{' ' + options if options else ''} seed {trial.seed}: "
            f"{_ending(trial.status, trial.loss, trial.steps)}"
        )


def _ending(status: str, loss: float | None, steps: int) -> str:
    if status == "done":
        return f"loss {loss_text(loss)} after {plural(steps, 'step')}"
    if status == "stopped":
        return f"stopped at step {steps:,}, loss {loss_text(loss)}"
    return f"diverged at step {steps:,}"
