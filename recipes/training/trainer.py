"""Training from a recipe: the loop, its evaluations and checkpoints, and how it ends."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

from ..rng import set_rng_state
from ..run_folder.checkpoint import Restored, RunProgress, load_checkpoint
from ..run_folder.folder import content_of
from ..run_folder.lock import check_unlocked, locked
from ..run_folder.result import Result
from ..schema import Recipe
from .checkpointing import Checkpointer
from .events import (
    Evaluated,
    OnEvent,
    Resumed,
    RunPlan,
    Started,
    Stepped,
    Warned,
    ignore,
)
from .history import add_to_history
from .interrupt import Interrupt, interruptible
from .metrics import MetricsLog
from .session import TrainingSession, open_session
from .stepper import Stepper
from .summary import summarize

_NOT_SETTINGS = {"params", "param_names"}


def plan(
    recipe: Recipe,
    *,
    recipe_path: Path,
    output: Path,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
) -> RunPlan:
    """Check everything `train` checks before its first step and return what it would do; writes nothing.

    Raises:
        SuboptError: What `train` raises before its first step.
    """
    content_of(output)  # which is no file
    check_unlocked(output)
    return open_session(
        recipe, recipe_path=recipe_path, output=output, resume=resume, force=force, device=device
    ).plan


def train(
    recipe: Recipe,
    *,
    recipe_path: Path,
    output: Path,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    until: int | None = None,
    on_event: OnEvent = ignore,
) -> Result:
    """Train a recipe's model and leave everything about the run in its folder.

    Args:
        recipe: The run.
        recipe_path: The recipe's file; the model file's path is relative to it.
        output: The run folder.
        resume: Go on from the newest checkpoint in it; from the beginning where there is none.
        force: Start over in an existing folder, train a changed model file, or a run that is predicted not to fit.
        device: Device, or None for the best there is.
        until: The step after which to pause, with a checkpoint and a held-out loss; the recipe's last by default.
            `resume` goes on from there, bit for bit as if the run had not paused.
        on_event: Called with every event as it happens, in this thread.

    Returns:
        What came out. `interrupted` is set where Ctrl-C, SIGTERM or SIGHUP ended it, after the step it was in and a
        checkpoint.

    Raises:
        UsageError, TargetError, PreflightError, FileFormatError: What `open_session` and `load_checkpoint` raise, or
            another process trains in the folder.
        DoesNotFitError: Predicted not to fit, or out of memory.
        DiskFullError: Something could not be written; the last complete checkpoint is still there.
        NonFiniteLossError: The loss became NaN or infinite; the last checkpoint is from before that.
        KeyboardInterrupt: Ctrl-C before the first step, or a second signal.
    """
    content_of(output)  # which is no file
    unnoticed = "so a second training in this folder would not be noticed"
    with locked(output, lambda why: on_event(Warned(f"{why}, {unnoticed}"))):
        session = open_session(
            recipe,
            recipe_path=recipe_path,
            output=output,
            resume=resume,
            force=force,
            device=device,
        )
        for warning in session.warnings:
            on_event(warning)
        if resume and session.folder.result.exists():
            result = Result.load(session.folder.result)
            if result.step >= recipe.schedule.steps:
                on_event(Warned(f"the run in {output} is already complete: {result.step} steps"))
                return result
        last = recipe.schedule.steps if until is None else min(until, recipe.schedule.steps)
        return _Training(session, last, on_event).run(resume=resume, force=force)


class _Training:
    """One session of a run, from its checkpoint or its beginning to its last step or an interrupt."""

    def __init__(self, session: TrainingSession, last_step: int, on_event: OnEvent) -> None:
        self._session = session
        self._last_step = last_step
        self._recipe = session.recipe
        self._folder = session.folder
        self._on_event = on_event
        self._model = session.model
        self._stream = session.begin()
        self._stepper = Stepper(session, self._stream)
        self._checkpointer = Checkpointer(session, on_event)
        self._progress = RunProgress()
        self._resumed_from = 0
        self._started_s = 0.0

    def run(self, *, resume: bool, force: bool) -> Result:
        self._restore(resume=resume)
        self._folder.prepare(self._recipe, self._session.recipe_path, resume=resume)
        self._checkpointer.go_on(self._progress.step, is_same_run=not force)
        self._on_event(Started(self._session.plan))
        self._started_s = time.perf_counter()
        with (
            MetricsLog(self._folder.metrics, from_step=self._progress.step) as self._metrics,
            interruptible(self._on_event) as interrupt,
        ):
            while self._progress.step < self._last_step and not interrupt.requested:
                self._step()
                if self._is_due(self._recipe.eval.every):
                    self._evaluate()
                if self._is_due(self._recipe.checkpoint.every):
                    self._save()
            interrupted = self._progress.step < self._last_step
            self._save()
            if not interrupted:
                # What the evaluation runs is the user's code: the trained weights are safe before it may fail.
                if self._is_complete:
                    self._checkpointer.save_weights()
                self._evaluate()
        return self._finish(interrupt if interrupted else None)

    @property
    def _is_complete(self) -> bool:
        return self._progress.step == self._recipe.schedule.steps

    def _restore(self, *, resume: bool) -> None:
        checkpoint = self._session.checkpoint
        if checkpoint is not None:
            restored = self._load(checkpoint)
            self._progress = restored.progress
            self._resumed_from = restored.progress.step
            self._stream.load_state_dict(restored.data)
            set_rng_state(restored.rng)
        if resume:
            self._on_event(Resumed(self._progress.step, checkpoint))

    def _load(self, checkpoint: Path) -> Restored:
        """Load a checkpoint; the optimizer's settings stay the recipe's, which may have changed under --force."""
        optimizer = self._session.optimizer
        settings = [
            {key: value for key, value in group.items() if key not in _NOT_SETTINGS}
            for group in optimizer.param_groups
        ]
        restored = load_checkpoint(checkpoint, self._model, optimizer)
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)
        return restored

    def _step(self) -> None:
        """Take one optimizer step and report it."""
        began_s = time.perf_counter()
        step = self._progress.step + 1
        done = self._stepper.take(step)
        if not math.isfinite(done.loss):
            raise self._checkpointer.non_finite(f"the loss became {done.loss} at step {step}")
        step_s = time.perf_counter() - began_s
        tokens = self._progress.tokens + done.tokens
        self._progress = replace(self._progress, step=step, tokens=tokens, loss=done.loss)
        event = Stepped(
            step=step,
            steps=self._recipe.schedule.steps,
            loss=done.loss,
            lr=done.lr,
            grad_norm=done.grad_norm if math.isfinite(done.grad_norm) else None,
            tokens=tokens,
            tokens_per_s=done.tokens / step_s,
            step_ms=step_s * 1000,
            memory_bytes=self._session.memory.bytes(),
            time_left_s=self._time_left_s(),
        )
        self._metrics.stepped(event)
        self._on_event(event)

    def _is_due(self, every: int) -> bool:
        """Whether something is due now; what ends the run, or pauses it, comes once, after its last step."""
        step = self._progress.step
        return every > 0 and step % every == 0 and step < self._last_step

    def _evaluate(self) -> None:
        step = self._progress.step
        if not self._session.target.data.has_eval or self._progress.eval_step == step:
            return
        found = self._session.evaluate(self._recipe.seed)
        if not math.isfinite(found.loss):
            raise self._checkpointer.non_finite(
                f"the held-out loss became {found.loss} at step {step}"
            )
        self._progress = replace(self._progress, eval_loss=found.loss, eval_step=step)
        event = Evaluated(step, found.loss, found.batches, found.batch_losses)
        self._metrics.evaluated(event)
        self._on_event(event)
        self._checkpointer.save_if_best(step, found)

    def _save(self) -> None:
        """Write a checkpoint; its metrics are on the disk before it."""
        self._metrics.sync()
        self._checkpointer.save(self._progress, self._stream.state_dict())

    def _finish(self, interrupt: Interrupt | None) -> Result:
        self._warn_of(self._session.optimizer.diagnostics())
        result = summarize(
            self._session,
            self._progress,
            resumed_from=self._resumed_from,
            interrupt=interrupt,
            wall_s=time.perf_counter() - self._started_s,
            checkpoint=self._checkpointer.newest,
            best=self._checkpointer.best,
        )
        if not self._is_complete and interrupt is None:  # a pause is no run to learn from
            return result
        result = add_to_history(self._session, result, self._on_event)
        if interrupt is None:
            result.save(self._folder.result)
        return result

    def _warn_of(self, diagnostics: dict[str, float]) -> None:
        broken, retained = diagnostics["nonfinite_gradients"], diagnostics["kept_bases"]
        if broken:
            self._on_event(
                Warned(
                    f"{broken:.0f} gradients were NaN or infinite and were left out of their step",
                    "try precision: fp32, a lower learning rate, or a longer warm-up",
                )
            )
        if retained:
            what = "times a new basis could not be computed; the old one was retained"
            self._on_event(Warned(f"{retained:.0f} {what}"))

    def _time_left_s(self) -> float:
        done = self._progress.step - self._resumed_from
        per_step = (time.perf_counter() - self._started_s) / max(1, done)
        return per_step * (self._recipe.schedule.steps - self._progress.step)
