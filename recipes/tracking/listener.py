"""What a run tells an experiment tracker: its scalars. No tracker can stop the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subopt.errors import first_line

from ..training.events import Evaluated, Event, OnEvent, Started, Stepped, Warned
from ..training.metrics import step_entry
from .trackers import Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
    from typing_extensions import Self

# What trackers get of a step's entry in metrics.jsonl.
_TRACKED = ("loss", "lr", "grad_norm", "tokens_per_s")


class Tracking:
    """An event listener that hands loss, learning rate, gradient norm, speed and held-out loss to a tracker.

    What a tracker raises, of a full disk or a lost connection, is a warning: it is left alone from then on, and the
    training goes on. `metrics.jsonl` holds the same numbers and more. Before the run starts nothing is asked of it.
    """

    def __init__(
        self, tracker: Tracker, folder: Path, settings: Mapping[str, Any], warn: OnEvent
    ) -> None:
        self._tracker, self._folder, self._settings = tracker, folder, settings
        self._warn = warn
        self._run: GeneralTracker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._left_alone_if_it_fails():
            if self._run is not None:
                self._run.finish()

    def __call__(self, event: Event) -> None:
        """Hand over what an event holds."""
        with self._left_alone_if_it_fails():
            match event:
                case Started(plan):
                    self._run = self._tracker.open(self._folder, plan.start_step, self._settings)
                    self._run.start()
                case Stepped() if self._run is not None:
                    entry = step_entry(event)
                    known = {f"train/{k}": entry[k] for k in _TRACKED if entry[k] is not None}
                    self._run.log(known, step=event.step)
                case Evaluated() if self._run is not None:
                    self._run.log({"eval/loss": event.loss}, step=event.step)

    @contextmanager
    def _left_alone_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._run = None
            self._warn(
                Warned(
                    f"{self._tracker.name} failed and gets nothing more: {first_line(error)}",
                    "the run goes on, and metrics.jsonl holds the same numbers",
                )
            )
