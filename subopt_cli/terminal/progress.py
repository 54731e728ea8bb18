"""Progress on stderr: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from .training import evaluation_line, plan_facts, step_line

if TYPE_CHECKING:
    from typing_extensions import Self

    from subopt.profilers.effort import Progress as StageEvent
    from subopt.recipes.training.events import Event, Stepped

    from .output import Output

QUIET_S = 10.0  # least time between two lines about steps where there is no terminal


class Bar:
    """A rich progress bar that exists on a terminal only, and goes away at the end."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.live = output.notes.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=output.notes,
            transient=True,
            disable=not self.live,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()


class StageProgress(Bar):
    """Shows the stages of a profile: call it with every event."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._stage: str | None = None
        self._task: TaskID | None = None

    def __call__(self, event: StageEvent) -> None:
        """Show one event."""
        if event.stage != self._stage:
            self._stage = event.stage
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(event.stage, total=event.total or None)
            if not self.live and event.total > 1:
                self.output.note(f"{event.stage} ...")
        if self._task is not None:
            self._bar.update(self._task, completed=event.done, total=event.total or None)


class TrainingProgress(Bar):
    """Shows a training run: call it with every event of `subopt.recipes.training.events`."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._task: TaskID | None = None
        self._last_line_s = float("-inf")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        from subopt.recipes.training import events

        match event:
            case events.Started(plan):
                self.output.aside(plan_facts(plan))
                self._task = self._bar.add_task("", total=plan.steps, completed=plan.start_step)
            case events.Stepped():
                self._step(event)
            case events.Evaluated():
                self.output.note(evaluation_line(event))
            case events.Saved(step, path):
                self.output.note(f"step {step}: saved {path}")
            case events.Resumed(step, path) if path is not None:
                self.output.note(f"going on after step {step}, from {path}")
            case events.Resumed():
                self.output.note("no checkpoint yet: starting from the beginning")
            case events.Interrupting(signal):
                by = "" if signal == "SIGINT" else f" by {signal}"
                self.output.note(
                    f"interrupted{by}: finishing this step and saving (once more to stop at once)"
                )
            case events.Warned(message, hint):
                self.output.warning(message + (f" ({hint})" if hint else ""))

    def _step(self, event: Stepped) -> None:
        if self._task is not None:
            width = self.output.notes.width // 2
            line = step_line(event, width, with_step=False)
            self._bar.update(self._task, completed=event.step, description=line)
        now_s = time.monotonic()
        due = now_s - self._last_line_s >= QUIET_S or event.step == event.steps
        if not self.live and due:
            self._last_line_s = now_s
            self.output.note(step_line(event, self.output.notes.width))
