"""The learning rate over a run: warm-up, then constant, cosine or linear decay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .schema import Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer

# Steps of a run of which nobody said how long it is.
DEFAULT_STEPS = 1000


def lr_factor(schedule: Schedule, step: int) -> float:
    """Return the learning rate of one optimizer step as a share of its peak.

    With k = step (from 0), w = warmup_steps, f = final_ratio and p = (k - w) / (steps - w - 1), clamped to 0..1:

        k < w       (k + 1) / w
        constant    1
        linear      1 - (1 - f) p
        cosine      f + (1 - f) (1 + cos(pi p)) / 2

    The first step is never 0 and the last one is exactly f: no step of the run is spent on nothing.

    Args:
        schedule: Name, lengths and final share.
        step: The step about to be taken, from 0; past the end it stays at the final value.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.name == "constant":
        return 1.0
    decay_steps = schedule.steps - schedule.warmup_steps - 1
    progress = min(1.0, (step - schedule.warmup_steps) / decay_steps) if decay_steps else 0.0
    final = schedule.final_ratio
    if schedule.name == "linear":
        return 1 - (1 - final) * progress
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


class LrSchedule:
    """Sets every group's learning rate relative to that group's own peak.

    A pure function of the step number: there is nothing to save, because the peak rests in the group as
    `initial_lr` (torch's name for it) and travels with the optimizer's own state.
    """

    def __init__(self, schedule: Schedule, optimizer: Optimizer) -> None:
        self._schedule = schedule
        self._optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def set_for(self, step: int) -> float:
        """Set all groups for the step about to be taken, from 0; return the share of the peak."""
        factor = lr_factor(self._schedule, step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return factor
