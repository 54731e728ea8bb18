"""The summary of a run: its progress, and what was predicted and measured of its cost."""

from __future__ import annotations

from pathlib import Path

from subopt.optimizers import get_method

from ..run_folder.best import Best
from ..run_folder.checkpoint import RunProgress
from ..run_folder.result import Figures, Result
from ..run_folder.weights import actual_state_bytes
from ..schema import Recipe
from .interrupt import Interrupt
from .metrics import median_step_ms
from .session import TrainingSession


def summarize(
    session: TrainingSession,
    progress: RunProgress,
    *,
    resumed_from: int,
    interrupt: Interrupt | None,
    wall_s: float,
    checkpoint: Path | None,
    best: Best | None,
) -> Result:
    """Return the result of one session of a run; `interrupt` is what ended it before the last step."""
    plan, folder = session.plan, session.folder
    return Result(
        target=plan.target,
        method=plan.method,
        device=plan.device,
        precision=plan.precision,
        steps=plan.steps,
        step=progress.step,
        resumed_from=resumed_from,
        interrupted=interrupt is not None,
        exit_status=(interrupt and interrupt.exit_status) or 0,
        tokens=progress.tokens,
        loss=progress.loss,
        eval_loss=progress.eval_loss,
        wall_s=wall_s,
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
        checkpoint=None if checkpoint is None else str(checkpoint),
        weights=str(folder.weights) if progress.step == plan.steps else None,
        best=None if best is None else str(folder.best),
        best_step=None if best is None else best.step,
        best_eval_loss=None if best is None else best.eval_loss,
        diagnostics=session.optimizer.diagnostics(),
    )


def _refresh_period(recipe: Recipe) -> int:
    """Return the steps between two refreshes of the recipe's method; 1 where it has none."""
    method = get_method(recipe.optimizer.method)
    if "refreshes" not in method.capabilities:
        return 1
    return int(method.resolve(dict(recipe.optimizer.options))["period"])
