"""What happens during a race, as plain data: the race emits these, the command renders them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from subopt.profilers.record.race import CurvePoint, LeftOut, Trial

from ..training.events import Interrupting, Warned
from .folder import RacePlan
from .trial import Order


@dataclass(frozen=True, slots=True)
class Pacing:
    """A method's steps are being timed; `done` of `total` timings are over."""

    method: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class RacePlanned:
    """The race is laid out, or goes on; `done` of its trials are over."""

    plan: RacePlan
    done: int


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial begins: number `number`, from 1, of the `total` planned."""

    order: Order
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class PointReached:
    """A trial has come to a point of its learning curve."""

    order: Order
    point: CurvePoint


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial is over and on disk."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class Dropped:
    """A method cannot go on."""

    left_out: LeftOut


@dataclass(frozen=True, slots=True)
class TimeUp:
    """The minutes are over before the plan is done."""


Event: TypeAlias = (
    Pacing
    | RacePlanned
    | TrialStarted
    | PointReached
    | TrialEnded
    | Dropped
    | TimeUp
    | Interrupting
    | Warned
)
OnEvent: TypeAlias = Callable[[Event], None]
