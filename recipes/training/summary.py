"""What a run came to: its progress, and what was predicted beside what it took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from subopt.optimizers import get_method

from ..run_folder.best import Best
from ..run_folder.checkpoint import RunProgress
from ..run_folder.result import Figures, Result
from ..run_folder.weights import actual_state_bytes
from ..schema import Recipe
from .metrics import median_step_ms
from .session import TrainingSession


@dataclass(frozen=True, slots=True)
class Run:
    """How one session of a run went.

    Attributes:
        progress: How far the run has come.
        resumed_from: The step this session started from.
        interrupted: Whether it ended before the last step.
        exit_status: Of the process: 0, or by the signal that ended the run.
        wall_s: Seconds of this session.
        checkpoint: The newest checkpoint, or None.
        best: Where the held-out loss was lowest, where the recipe asks for it.
    """

    progress: RunProgress
    resumed_from: int
    interrupted: bool
    exit_status: int
    wall_s: float
    checkpoint: Path | None
    best: Best | None


def summarize(session: TrainingSession, run: Run) -> Result:
    """Return the result of a session."""
    plan, folder, progress = session.plan, session.folder, run.progress
    return Result(
        target=plan.target,
        method=plan.method,
        device=plan.device,
        precision=plan.precision,
        steps=plan.steps,
        step=progress.step,
        resumed_from=run.resumed_from,
        interrupted=run.interrupted,
        exit_status=run.exit_status,
        tokens=progress.tokens,
        loss=progress.loss,
        eval_loss=progress.eval_loss,
        wall_s=run.wall_s,
        predicted=Figures(
            plan.predicted_state_bytes, plan.predicted_peak_bytes, plan.predicted_step_ms
        ),
        actual=Figures(
            actual_state_bytes(session.optimizer),
            session.memory.bytes(),
            median_step_ms(folder.metrics, period=_refresh_period(session.recipe)),
        ),
        peak_source=session.memory.source,
        output=str(folder.path),
        checkpoint=None if run.checkpoint is None else str(run.checkpoint),
        weights=None if run.interrupted else str(folder.weights),
        best=None if run.best is None else str(folder.best),
        best_step=None if run.best is None else run.best.step,
        best_eval_loss=None if run.best is None else run.best.eval_loss,
        diagnostics=session.optimizer.diagnostics(),
    )


def _refresh_period(recipe: Recipe) -> int:
    """Return the steps between two refreshes of the recipe's method; 1 where it has none."""
    method = get_method(recipe.optimizer.method)
    if "refreshes" not in method.capabilities:
        return 1
    return int(method.resolve(dict(recipe.optimizer.options))["period"])
