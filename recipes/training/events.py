"""What happens during a training run, as plain data: the trainer emits these, the command renders them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from subopt.optimizers.overrides import OverrideUse

from ..prior.rates import HeavyDecay


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is about to do, worked out before anything long starts.

    Attributes:
        target: What was picked as the model, with file and line.
        method: The optimizer method's id.
        device: Device the run uses, such as `cpu` or `cuda:0`.
        precision: `fp32`, `bf16` or `bf16-mixed`.
        parameters: Trainable numbers in the model; tied ones count once.
        matrix_parameters: Those of them that get the method; the rest go to its fallback.
        steps: Optimizer steps of the whole run.
        batch_size: Examples of one micro-batch.
        accumulate: Micro-batches of one optimizer step.
        output: The run folder.
        start_step: Steps already done: more than 0 only for a resumed run.
        predicted_state_bytes: Optimizer state, from the method table.
        predicted_peak_bytes: Highest memory of a step, as the recipe predicts it, or None.
        predicted_step_ms: Time of a step, as the recipe predicts it, or None.
        free_bytes: Free memory of the device, or None where it is unknown.
        checks: The pre-flight checks passed, as (name, detail).
        has_eval: Whether the model file offers held-out batches.
        wall_time_s: Predicted time of the remaining steps, or None.
        switches: Recipe keys that are on, such as `recompute`.
        overrides: What each of the recipe's overrides gets, and last the rest; empty where there are none.
        heavy_decay: What is wrong with the weight decay at this rate, or None.
    """

    target: str
    method: str
    device: str
    precision: str
    parameters: int
    matrix_parameters: int
    steps: int
    batch_size: int
    accumulate: int
    output: Path
    start_step: int
    predicted_state_bytes: int
    predicted_peak_bytes: int | None
    predicted_step_ms: float | None
    free_bytes: int | None
    checks: tuple[tuple[str, str], ...]
    has_eval: bool
    wall_time_s: float | None
    switches: tuple[str, ...] = ()
    overrides: tuple[OverrideUse, ...] = ()
    heavy_decay: HeavyDecay | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The checks passed and the first step is next."""

    plan: RunPlan


@dataclass(frozen=True, slots=True)
class Stepped:
    """One optimizer step is done. `grad_norm` is before clipping; None where it was not finite."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float | None
    tokens: int
    tokens_per_s: float
    step_ms: float
    memory_bytes: int | None
    time_left_s: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out loss after `step` steps, over `batches` batches, and the loss of each."""

    step: int
    loss: float
    batches: int
    batch_losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete checkpoint is on disk."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run goes on from a checkpoint; `path` is None where there was none and it starts at the beginning."""

    step: int
    path: Path | None


@dataclass(frozen=True, slots=True)
class Interrupting:
    """A signal (SIGINT: Ctrl-C) asked for the end: this step is finished and saved. A second one ends at once."""

    signal: str = "SIGINT"


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user should know; the run goes on."""

    message: str
    hint: str | None = None


Event: TypeAlias = Started | Stepped | Evaluated | Saved | Resumed | Interrupting | Warned
OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: object) -> None:
    """Do nothing with an event, of a run or of a race."""


def each_of(*listeners: OnEvent) -> OnEvent:
    """Return a listener that hands every event to all of these, in order."""

    def on_event(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return on_event
