"""What happens during a race, as plain data: the race emits these, the command renders them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from subopt.profilers.record.race import LeftOut

from ..training.events import Interrupting, Warned
from .folder import RacePlan

RunState: TypeAlias = Literal["waiting", "training", "going on", "stopped", "diverged"]


@dataclass(frozen=True, slots=True)
class TimingSteps:
    """A method's steps are being timed; `done` of `total` timings are over."""

    method: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class RacePlanned:
    """The race is laid out, or goes on where an earlier session ended."""

    plan: RacePlan


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the live table shows it: `step` of `steps`, its last loss at a rung, and whether it goes on."""

    method: str
    lr: float
    step: int
    steps: int
    loss: float | None
    state: RunState


@dataclass(frozen=True, slots=True)
class Stood:
    """How the race stands: every run there is, and how much of the most that there can be is done, in steps."""

    rows: tuple[RunRow, ...]
    done_runs: float
    total_runs: float


@dataclass(frozen=True, slots=True)
class RunStepped:
    """The run that is training has taken a step."""

    method: str
    lr: float
    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """A method cannot go on."""

    left_out: LeftOut


@dataclass(frozen=True, slots=True)
class TimeUp:
    """The minutes are over before the race is decided: the best run known so far wins."""


@dataclass(frozen=True, slots=True)
class Decided:
    """One run is left: it goes on, and is the result."""

    method: str
    lr: float
    step: int


Event: TypeAlias = (
    TimingSteps
    | RacePlanned
    | Stood
    | RunStepped
    | Dropped
    | TimeUp
    | Decided
    | Interrupting
    | Warned
)
OnEvent: TypeAlias = Callable[[Event], None]
