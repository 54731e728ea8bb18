"""Experiment trackers on request: each gets the run's scalars, and none of them can stop the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from subopt.errors import UsageError, first_line, suggestion

from ..training.events import Evaluated, Event, OnEvent, Saved, Started, Stepped, Warned
from ..training.metrics import step_entry
from .tracker import Tracker

if TYPE_CHECKING:
    from typing_extensions import Self

TRACKERS = ("tensorboard", "wandb", "trackio")

# What trackers get of a step's entry in metrics.jsonl.
_TRACKED = ("loss", "lr", "grad_norm", "tokens_per_s")


class Tracking:
    """An event listener that hands loss, learning rate, gradient norm, speed and held-out loss to a tracker.

    What a tracker raises, of a full disk or a lost connection, is a warning: it is left alone from then on, and the
    training goes on. `metrics.jsonl` holds the same numbers and more.

    Args:
        tracker: The tracker.
        settings: What the run's settings are, as plain data.
        warn: Called with that warning.
    """

    def __init__(self, tracker: Tracker, settings: Mapping[str, Any], warn: OnEvent) -> None:
        self._tracker: Tracker | None = tracker
        self._settings = settings
        self._warn = warn
        self._has_begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._has_begun:
            self._try(lambda tracker: tracker.end())

    def __call__(self, event: Event) -> None:
        """Hand over what an event holds."""
        match event:
            case Started(plan):
                self._has_begun = True
                self._try(lambda tracker: tracker.begin(plan.start_step, self._settings))
            case Stepped():
                entry = step_entry(event)
                known = {f"train/{key}": entry[key] for key in _TRACKED if entry[key] is not None}
                self._try(lambda tracker: tracker.log(event.step, known))
            case Evaluated():
                self._try(lambda tracker: tracker.log(event.step, {"eval/loss": event.loss}))
            case Saved() if self._has_begun:
                self._try(lambda tracker: tracker.sync())

    def _try(self, call: Any) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        try:
            call(tracker)
        except Exception as error:
            self._tracker = None
            self._warn(
                Warned(
                    f"{tracker.name} failed and gets nothing more: {first_line(error)}",
                    "the run goes on, and metrics.jsonl holds the same numbers",
                )
            )


def parse_trackers(text: str) -> list[str]:
    """Return the names in a list such as `tensorboard,wandb`, each once.

    Raises:
        UsageError: An unknown name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in TRACKERS:
            raise UsageError(
                f"unknown tracker '{name}'{suggestion(name, TRACKERS)}",
                f"trackers: {', '.join(TRACKERS)}",
            )
    return names


def make_trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """Return the named trackers for a run folder; nothing is written yet.

    Raises:
        UsageError: A package is not installed.
    """
    from .tensorboard import TensorBoard
    from .trackio import Trackio
    from .wandb import WeightsAndBiases

    kinds: dict[str, type[Any]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "trackio": Trackio,
    }
    return [kinds[name](folder) for name in names]
