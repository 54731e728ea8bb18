"""What the end of a run adds to the machine's history, which later profiles calibrate their predictions with."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timezone

import torch

from subopt import __version__
from subopt.profilers.history.calibration import LEAST_STEPS
from subopt.profilers.history.runs import VARIABLE, Numbers, PastRun, device_name, record_run

from ..run_folder.result import Figures, Result
from .events import OnEvent, Warned
from .session import TrainingSession


def add_to_history(session: TrainingSession, result: Result, on_event: OnEvent) -> Result:
    """Add a run to the history and return its result with the history's file in it.

    An interrupted run of fewer than 20 steps, and a session that took none, say nothing. A history that cannot be
    written is a warning.
    """
    taken = result.step - result.resumed_from
    if taken == 0 or (result.interrupted and result.step < LEAST_STEPS):
        return result
    try:
        path = record_run(past_run(session, result))
    except OSError as error:
        on_event(
            Warned(
                f"this run's numbers could not be stored for later profiles: {error}",
                f"name a folder that can be written in {VARIABLE}, or turn it off: {VARIABLE}=off",
            )
        )
        return result
    return replace(result, history=None if path is None else str(path))


def past_run(session: TrainingSession, result: Result) -> PastRun:
    """Return the run as the history holds it: settings and numbers, and of the user's files one hash."""
    recipe = session.recipe
    return PastRun(
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        subopt=__version__,
        torch=torch.__version__,
        device=device_name(session.accelerator.device),
        target_sha256=recipe.model.sha256,
        method=recipe.optimizer.method,
        options=recipe.optimizer.options,
        precision=recipe.precision,
        batch_size=recipe.data.batch_size,
        accumulate=recipe.data.accumulate,
        recompute=recipe.recompute,
        fused_backward=recipe.fused_backward,
        compile=recipe.compile,
        steps=result.step,
        predicted=_numbers(result.predicted, step_factor=recipe.why.step_factor or 1.0),
        actual=_numbers(result.actual),
        peak_source=result.peak_source,
    )


def _numbers(figures: Figures, *, step_factor: float = 1.0) -> Numbers:
    """Return the figures, the step's time without the correction that the recipe put into it."""
    step_ms = figures.step_ms or 0.0
    return Numbers(
        state_bytes=figures.state_bytes,
        peak_bytes=figures.peak_bytes,
        step_ms=step_ms / step_factor if math.isfinite(step_ms) and step_ms > 0 else None,
    )
