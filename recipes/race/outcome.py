"""What a race found out, as the record that a profile keeps: its runs, and of each method the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.race import Contestant, CurvePoint, Race, Trial

from .candidates import Candidate
from .folder import Entry, Point, RacePlan
from .setup import RaceSetup
from .standing import Leader, Run, Standing


def outcome(
    setup: RaceSetup,
    plan: RacePlan,
    entries: Sequence[Entry],
    *,
    minutes: float,
    is_over: bool,
    interrupted: bool,
) -> Race:
    """Return the record of a race; `is_over` where its best run so far wins, whether or not the plan is done."""
    standing, recipe = Standing(plan, entries), setup.recipe
    leaders = standing.leaders()
    winner = leaders[0].run if leaders and is_over else None
    share = min((leader.share for leader in leaders[:2]), default=0.0)
    base = next((one for one in leaders if one.run.candidate.method == _baseline(plan)), None)
    runs = [run for run in standing.runs() if standing.points(run)]
    stopped = (standing.points(run) for run in runs if run != winner)
    own = plan.candidates[0]
    best = winner or (leaders[0].run if leaders else Run(own, own.start_lr))
    return Race(
        baseline=_baseline(plan),
        metric="held-out loss" if setup.target.data.has_eval else "training loss",
        minutes=minutes,
        spent_seconds=plan.spent_seconds + sum(entry.wall_seconds for entry in entries),
        horizon_seconds=plan.run_seconds,
        share=share,
        cost_runs=sum(points[-1].share for points in stopped if points),
        device=str(setup.device),
        precision=recipe.precision,
        batch_size=recipe.data.batch_size,
        accumulate=recipe.data.accumulate,
        target_sha256=setup.target.record.sha256,
        seeds=[recipe.seed],
        fallback_lr=best.candidate.setting(best.lr).fallback_lr or best.lr,
        contestants=[
            *(_contestant(plan, standing, leader, base, share) for leader in leaders),
            *_diverged(plan, standing, leaders, entries),
        ],
        left_out=[*plan.left_out, *(entry.left_out for entry in entries if entry.left_out)],
        trials=[_trial(plan, standing, run, recipe.seed, is_winner=run == winner) for run in runs],
        interrupted=interrupted,
    )


def _baseline(plan: RacePlan) -> str:
    """AdamW where it takes part, else the recipe's own method."""
    methods = [candidate.method for candidate in plan.candidates]
    return BASELINE if BASELINE in methods else methods[0]


def _step_ms(plan: RacePlan, run: Run) -> float:
    """A step's mean time over a whole run, all of which take the same time."""
    return 1000 * plan.run_seconds / run.candidate.steps


def _trial(plan: RacePlan, standing: Standing, run: Run, seed: int, *, is_winner: bool) -> Trial:
    points, step_ms = standing.points(run), _step_ms(plan, run)
    last = points[-1] if points else None
    curve = [
        CurvePoint(
            share=point.share,
            step=point.step,
            seconds=point.step * step_ms / 1000,
            tokens=point.tokens,
            loss=point.loss,
        )
        for point in points
        if point.loss is not None
    ]
    has_diverged = last is not None and last.loss is None
    status: Literal["going on", "diverged", "stopped"] = "stopped"
    status = "going on" if is_winner else "diverged" if has_diverged else status
    setting = run.candidate.setting(run.lr)
    return Trial(
        method=setting.method,
        options=run.candidate.options,
        lr=setting.lr,
        weight_decay=setting.weight_decay,
        seed=seed,
        status=status,
        steps=0 if last is None else last.step,
        seconds=0.0 if last is None else last.step * step_ms / 1000,
        tokens=0 if last is None else last.tokens,
        loss=None if last is None else last.loss,
        curve=curve,
    )


def _contestant(
    plan: RacePlan, standing: Standing, leader: Leader, base: Leader | None, share: float
) -> Contestant:
    """What the race says of a method whose best run is known."""
    is_baseline = leader == base
    share = min(share, leader.share, share if base is None else base.share)
    own = _point_at(standing, leader.run, share)
    other = None if base is None or is_baseline else _point_at(standing, base.run, share)
    difference = error = None
    if own.loss is not None and other is not None and other.loss is not None:
        difference, error = own.loss - other.loss, paired_error(own, other)
    return _record(
        plan,
        leader.run,
        trials=_tried(standing, leader.run.candidate),
        losses=[] if own.loss is None else [own.loss],
        tokens=own.tokens,
        difference=difference,
        difference_error=error,
        verdict="baseline" if is_baseline else "one seed only",
    )


def _diverged(
    plan: RacePlan, standing: Standing, leaders: Sequence[Leader], entries: Sequence[Entry]
) -> list[Contestant]:
    """Return the methods that ran and of which nothing finite is known."""
    able = {leader.run.candidate.method for leader in leaders}
    ran = {entry.point.method for entry in entries if entry.point is not None}
    found = [one for one in plan.candidates if one.method in ran - able]
    return [
        _record(
            plan,
            Run(candidate, candidate.start_lr),
            trials=_tried(standing, candidate),
            losses=[],
            tokens=0,
            difference=None,
            difference_error=None,
            verdict="diverged",
        )
        for candidate in found
    ]


def _record(
    plan: RacePlan,
    run: Run,
    *,
    trials: int,
    losses: list[float],
    tokens: int,
    difference: float | None,
    difference_error: float | None,
    verdict: Literal["baseline", "one seed only", "diverged"],
) -> Contestant:
    candidate = run.candidate
    timed = plan.step_times.get(candidate.method)
    setting = candidate.setting(run.lr)
    return Contestant(
        method=candidate.method,
        options=candidate.options,
        lr=run.lr,
        weight_decay=setting.weight_decay,
        step_ms=_step_ms(plan, run),
        state_bytes=0 if timed is None else timed.state_bytes,
        trials=trials,
        steps=candidate.steps,
        tokens=tokens,
        losses=losses,
        difference=difference,
        difference_error=difference_error,
        verdict=verdict,
    )


def _tried(standing: Standing, candidate: Candidate) -> int:
    """How many of a method's rates have come to a rung."""
    own = (run for run in standing.runs() if run.candidate == candidate)
    return sum(bool(standing.points(run)) for run in own)


def _point_at(standing: Standing, run: Run, share: float) -> Point:
    return next(point for point in standing.points(run) if point.share == share)


def paired_error(one: Point, other: Point) -> float | None:
    """Return the standard error of the difference of two losses over the same held-out batches.

        sd(a_k - b_k) / sqrt(n),   a_k and b_k the losses of batch k of n

    None where fewer than two batches are known, or the batches are not the same. It tells what other held-out data
    would change, and not what another seed would.
    """
    if len(one.batch_losses) != len(other.batch_losses) or len(one.batch_losses) < 2:
        return None
    pairs = zip(one.batch_losses, other.batch_losses, strict=True)
    differences = [a - b for a, b in pairs]
    if not all(map(math.isfinite, differences)):
        return None
    return statistics.stdev(differences) / math.sqrt(len(differences))
