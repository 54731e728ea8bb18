"""What the profile file holds of a race: methods trained against each other on the user's own model and data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Bytes, Count, Milliseconds, Record

OptionValue = str | int | float | bool | list[float] | None
Seconds = Annotated[float, Field(ge=0, le=1e15)]
Rate = Annotated[float, Field(gt=0, le=100)]  # as in a recipe


class CurvePoint(Record):
    """Loss after some steps: held out where there is such data, else the mean training loss of the steps before.

    `share` is the rung that the run was compared at there, of its whole length; in a very short run two rungs may be
    one step. None in races of earlier versions.
    """

    share: float | None = None
    step: Count
    seconds: Seconds
    tokens: Count
    loss: float


class Trial(Record):
    """One candidate's run in a race, as far as it went; `seconds` is its steps times its method's step time.

    `status`: `going on` is the winner's, which is the run itself; `stopped` early, as others were ahead; `diverged`
    where its loss became NaN or infinite (`loss` is None then). Races of earlier versions ran some trials to the end
    of a short schedule (`done`) and repeated the best with other seeds (`role` is `final`).
    """

    method: str
    options: dict[str, OptionValue] = {}
    lr: Rate
    weight_decay: float | None = None
    seed: Count
    role: Literal["search", "final"] = "search"
    status: Literal["going on", "stopped", "diverged", "done"]
    steps: Count
    seconds: Seconds
    tokens: Count
    loss: float | None
    curve: list[CurvePoint] = []


class Contestant(Record):
    """What a race found out about one method, at the best rate that it tried.

    `losses` holds its loss where the methods were compared (`Race.share` of the run); in races of earlier versions, one
    for each seed. `steps` are those of a whole run: so many as take the time of the recipe's own run.
    `difference` is its loss minus the baseline's there; `difference_error` is the standard error of that over the
    held-out batches, which says nothing of other seeds. `difference_spread` is over seeds. All are None where there is
    nothing to compare. `verdict` calls nothing better or worse that lies within the spread of the seeds.
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
    difference_error: float | None = None
    difference_spread: float | None = None
    verdict: Literal[
        "baseline", "better", "worse", "inside the spread", "one seed only", "diverged"
    ]


class LeftOut(Record):
    """A method that could not take part, and why."""

    method: str
    reason: str


class Race(Record):
    """A race: the first part of the real run, started with several methods and rates, of which the best goes on.

    Every contestant's whole run takes `horizon_seconds` of training at its own step time. `share` is how much of the
    run the methods (or, of a single method, the rates) had when the last of them was stopped; None in races of earlier
    versions, which trained short runs to their end. `cost_runs` is the training time of the candidates that were
    stopped, in whole runs. `fallback_lr` trained what the winner leaves alone. `spent_seconds` is wall time in all.
    The contestants come best first. `interrupted`: by Ctrl-C, or out of time before it was decided.
    """

    baseline: str
    metric: Literal["held-out loss", "training loss"]
    minutes: Seconds = 0.0
    spent_seconds: Seconds
    horizon_seconds: Seconds
    share: float | None = None
    cost_runs: float | None = None
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

    @property
    def winner(self) -> Trial | None:
        """The candidate that goes on; None before one is decided on, and in races of earlier versions."""
        return next((trial for trial in self.trials if trial.status == "going on"), None)
