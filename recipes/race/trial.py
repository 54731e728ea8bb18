"""What all trials of a race share, and the run of one of them: the same weights, batches and schedule for everyone."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from subopt.errors import OptionError
from subopt.optimizers import get_method
from subopt.profilers.record.race import CurvePoint, OptionValue, Trial
from subopt.profilers.target.loaded import LoadedTarget

from ..schema import Fallback, Override, Recipe
from ..training.stepper import Stepper
from ..training.trainable import make_trainable

# What would make trials start slowly, or is not for every method, and changes no result.
_WITHOUT = {"compile": False, "fused_backward": False}

# Points of a learning curve; a trial may be stopped early at some of them only.
PARTS = 10


@dataclass(frozen=True)
class RaceSetup:
    """What all trials of a race share: the recipe, of whose `schedule` the shape counts, the model and the device."""

    recipe: Recipe
    target: LoadedTarget
    device: torch.device

    def recipe_of(
        self,
        method: str,
        options: Mapping[str, OptionValue],
        lr: float,
        *,
        steps: int,
        seed: int,
        fallback_lr: float | None,
    ) -> Recipe:
        """Return the recipe of one run: the common one with a method's settings, its schedule stretched over the run.

        `lr` is the learning rate of what the method trains, and `fallback_lr` that of the rest; None where the method
        trains everything at its own.
        """
        own = self.recipe.optimizer
        optimizer = own.model_copy(
            update={
                "method": method,
                "options": dict(options),
                "lr": lr,
                "fallback": Fallback(
                    method=own.fallback.method,
                    lr=None if own.fallback.method == "same" else fallback_lr,
                    weight_decay=own.fallback.weight_decay,
                ),
                "overrides": [one for one in own.overrides if _takes(method, options, one)],
            }
        )
        schedule = self.recipe.schedule.over(steps)
        changes = {"optimizer": optimizer, "schedule": schedule, "seed": seed}
        return self.recipe.model_copy(update=changes | _WITHOUT)


def _takes(method: str, options: Mapping[str, OptionValue], override: Override) -> bool:
    """Whether an override says something to this method: options without a method are for one that has them."""
    if override.method is not None or not override.options:
        return True
    try:
        get_method(method).resolve({**options, **override.options})
    except OptionError:
        return False
    return True


@contextmanager
def quick_release() -> Iterator[None]:
    """Let the collector look, within the block, at what is made in it alone: all of torch takes it half a second."""
    # Whoever froze something has seen to that, and what is frozen thaws as a whole.
    if gc.get_freeze_count() > 0:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass(frozen=True, slots=True)
class Order:
    """A trial to run."""

    method: str
    options: dict[str, OptionValue]
    lr: float
    seed: int
    role: Literal["search", "final"]
    steps: int
    step_ms: float
    fallback_lr: float | None


def run_trial(
    setup: RaceSetup,
    order: Order,
    *,
    is_hopeless: Callable[[int, float], bool],
    is_over: Callable[[], bool],
    on_point: Callable[[CurvePoint], None],
) -> Trial | None:
    """Train for the ordered steps and return what came of it; None where it was cut short.

    Args:
        setup: What all trials share.
        order: The trial.
        is_hopeless: Asked with each part's number, from 1, and its loss: whether to stop the trial.
        is_over: Asked after each step: whether the race has to end.
        on_point: Called with each point of the curve.

    Raises:
        DoesNotFitError: The device ran out of memory.
        OptionError, PreflightError: The method cannot train this model.
        UserCodeError: The user's code raised.
    """
    recipe = setup.recipe_of(
        order.method,
        order.options,
        order.lr,
        steps=order.steps,
        seed=order.seed,
        fallback_lr=order.fallback_lr,
    )
    trainable = make_trainable(recipe, setup.target, setup.device)
    stepper = Stepper(trainable, trainable.begin())
    curve: list[CurvePoint] = []
    tokens = step = 0
    for part in range(1, PARTS + 1):
        losses = []
        while step < round(part * order.steps / PARTS):  # parts as equal as whole steps allow
            if is_over():
                return None
            step += 1
            done = stepper.take(step)
            tokens += done.tokens
            if not math.isfinite(done.loss):
                return _outcome(order, "diverged", step, tokens, curve)
            losses.append(done.loss)
        loss = math.fsum(losses) / len(losses)
        if setup.target.data.has_eval:
            loss = trainable.evaluate(setup.recipe.seed).loss  # the same batches for every trial
        if not math.isfinite(loss):
            return _outcome(order, "diverged", step, tokens, curve)
        seconds = step * order.step_ms / 1000
        curve.append(CurvePoint(step=step, seconds=seconds, tokens=tokens, loss=loss))
        on_point(curve[-1])
        if part < PARTS and is_hopeless(part, loss):
            return _outcome(order, "stopped", step, tokens, curve)
    return _outcome(order, "done", step, tokens, curve)


def _outcome(
    order: Order,
    status: Literal["done", "stopped", "diverged"],
    step: int,
    tokens: int,
    curve: list[CurvePoint],
) -> Trial:
    return Trial(
        method=order.method,
        options=order.options,
        lr=order.lr,
        seed=order.seed,
        role=order.role,
        status=status,
        steps=step,
        seconds=step * order.step_ms / 1000,
        tokens=tokens,
        loss=None if status == "diverged" else curve[-1].loss,
        curve=curve,
    )
