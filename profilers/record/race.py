"""What the profile file holds of a race: methods trained against each other on the user's own model and data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Bytes, Count, Milliseconds, Record

OptionValue = str | int | float | bool | list[float] | None
Seconds = Annotated[float, Field(ge=0, le=1e15)]
Rate = Annotated[float, Field(gt=0, le=100)]  # as in a recipe


class CurvePoint(Record):
    """Loss after some steps: held out where there is such data, else the mean training loss since the last point."""

    step: Count
    seconds: Seconds
    tokens: Count
    loss: float


class Trial(Record):
    """One training run of a race; `seconds` is its steps times its method's step time, evaluations not counted.

    `role`: of the search for a rate and options, or a repetition of a finalist with another seed. `loss` is that of the
    last point of its curve; None where it never became finite. `status`: `stopped` early by successive halving.
    """

    method: str
    options: dict[str, OptionValue] = {}
    lr: Rate
    seed: Count
    role: Literal["search", "final"]
    status: Literal["done", "stopped", "diverged"]
    steps: Count
    seconds: Seconds
    tokens: Count
    loss: float | None
    curve: list[CurvePoint] = []


class Contestant(Record):
    """What a race found out about one method, at the best rate and options of its search.

    `losses` is by seed, in the order of `Race.seeds`; shorter where the method was no finalist, and up to the first run
    that diverged. `steps` and `tokens` are those of a whole run at that setting (0: none ended).
    `difference` is the mean over common seeds of its loss minus the baseline's at equal time, `difference_spread` the
    largest minus the smallest of those; both None for the baseline and where there is nothing to compare. `verdict`
    calls nothing better or worse that lies within the spread of the seeds.
    """

    method: str
    options: dict[str, OptionValue] = {}
    lr: Rate
    weight_decay: float | None = None
    step_ms: Milliseconds
    state_bytes: Bytes
    trials: Count
    steps: Count = 0
    tokens: Count = 0
    losses: list[float] = []
    difference: float | None = None
    difference_spread: float | None = None
    verdict: Literal[
        "baseline", "better", "worse", "inside the spread", "one seed only", "diverged"
    ]


class LeftOut(Record):
    """A method that could not take part, and why."""

    method: str
    reason: str


class Race(Record):
    """A race: every contestant had `horizon_seconds` of training at its own step time, and the same search.

    `fallback_lr` trained what a method leaves alone, under every method the same. `spent_seconds` is wall time in all.
    The contestants come best first. `interrupted`: by Ctrl-C, or out of time before its plan was done.
    """

    baseline: str
    metric: Literal["held-out loss", "training loss"]
    minutes: Seconds
    spent_seconds: Seconds
    horizon_seconds: Seconds
    share: float | None = None
    device: str
    precision: str
    batch_size: Count
    accumulate: Count = 1
    target_sha256: str | None = None
    seeds: list[Count]
    fallback_lr: Rate
    contestants: list[Contestant]
    left_out: list[LeftOut] = []
    trials: list[Trial]
    interrupted: bool = False
