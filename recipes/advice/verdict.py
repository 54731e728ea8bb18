"""Why the choice is what it is: its promise, which evidence decided, who comes next, what plain AdamW would do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from subopt.profilers.record.profile import Profile

from ..evidence.doubts import SyntheticData
from ..plan.budget import Fit
from ..prior.traits import Measure, measure_of
from ..ranking.reasons import LowRankLayers
from ..ranking.row import Objective, Row
from ..reason import Reason
from . import reasons

# The options of the methods that fit with leaner ones only, by method.
Leaner: TypeAlias = Mapping[str, Mapping[str, Any]]


def choice_reasons(
    chosen: Row, rows: Sequence[Row], objective: Objective, profile: Profile, leaner: Leaner
) -> Iterator[Reason]:
    """Yield what was chosen and what it promises, what decided, who comes next, and what plain AdamW would do."""
    measure = measure_of(profile)
    memory = (chosen.peak.bytes, chosen.peak.phase, chosen.headroom_bytes)
    others = [row for row in rows if row is not chosen and row.is_recommendable]
    if chosen.is_baseline:
        yield reasons.BaselineChosen(*memory)
        yield _why_baseline(rows, others, objective, measure, leaner)
        return
    yield reasons.MethodChosen(*memory, chosen.method, _promise(chosen, measure))
    yield from _decided(chosen)
    yield from _runner_up(chosen, others, objective, leaner)
    if chosen.cost.weight_bytes_saved:
        yield LowRankLayers(chosen.cost.weight_bytes_saved)
    for row in (row for row in rows if row.is_baseline):
        if not row.is_recommendable:
            yield reasons.BaselineDoesNotFit(row.peak.bytes, -row.headroom_bytes)
        elif row.method in leaner:
            yield reasons.BaselineFitsLeaner(row.peak.bytes, leaner[row.method])
        else:
            yield reasons.BaselineFits(row.peak.bytes)


def _promise(row: Row, measure: Measure) -> reasons.Promise:
    """What a method promises, time included."""
    expected, raced = row.expected, row.raced
    if expected is None:
        return reasons.UnknownQuality(row.overhead)
    if row.is_raced and raced is not None and raced.gain is not None:
        return reasons.RaceResult(raced.gain, measure, raced.counts)
    return reasons.ExpectedGain(expected.gain, expected.error, measure, row.overhead)


def _decided(row: Row) -> Iterator[reasons.DecidedBy]:
    """Which evidence decided, and what the others say; a race at the settings of the question decides alone."""
    if row.expected is None:
        return
    decided_by = row.expected.decided_by
    evidence = {"raced": row.raced, "predicted": row.predicted, "published": row.published}
    others = {} if row.is_raced else {one.evidence_type: one.gain for one in row.expected.estimates}
    others.pop(decided_by, None)
    if (decisive := evidence[decided_by]) is not None:
        yield reasons.DecidedBy(decided_by, decisive, others)


def _runner_up(
    chosen: Row, others: Sequence[Row], objective: Objective, leaner: Leaner
) -> Iterator[Reason]:
    """Who comes next, and by how much; nobody where quality was not asked for or nothing is known of a second."""
    rivals = [row for row in others if row.score is not None and row.is_raced == chosen.is_raced]
    if objective != "quality" or chosen.score is None or not rivals:
        return
    second = max(rivals, key=_score)
    behind = chosen.score - _score(second)
    if behind >= 0:
        expected = [row.expected for row in (chosen, second) if row.expected is not None]
        error = max(item.error for item in expected)
        yield reasons.RunnerUp(second.method, behind, error, chosen.is_raced)
    elif second.method in leaner and chosen.method not in leaner:
        yield reasons.LeanerOnly(second.method, -behind, leaner[second.method])
    else:
        yield reasons.LessSure(second.method, -behind)


def _why_baseline(
    rows: Sequence[Row],
    others: Sequence[Row],
    objective: Objective,
    measure: Measure,
    leaner: Leaner,
) -> Reason:
    """Why nothing else was chosen over plain AdamW."""
    if objective == "quality":
        better = [row for row in others if row.is_promising and row.method in leaner]
        if better:
            best = max(better, key=_score)
            return reasons.LeanerRival(best.method, _promise(best, measure), leaner[best.method])
        raced = [row for row in others if row.is_raced]
        if raced:
            best = max(raced, key=_score)
            return reasons.RacedRival(best.method, _promise(best, measure))
    known = [row for row in rows if row.expected is not None]
    if not known:
        return reasons.NoRival()
    best = max(known, key=_score)
    rival = (best.method, _promise(best, measure))
    if best.is_promising and best.fit is not Fit.YES:
        too_large = reasons.LargeRival if best.fit is Fit.NO else reasons.TightRival
        return too_large(*rival, best.peak.bytes)
    if best.is_promising and objective != "quality":
        return reasons.OtherObjective(*rival, objective)
    return reasons.UnsureRival(*rival) if _score(best) > 0 else reasons.Rival(*rival)


def _score(row: Row) -> float:
    return -math.inf if row.score is None else row.score


def how_sure(profile: Profile, row: Row) -> reasons.HowSure:
    """Return how sure the choice is, what it rests on and what weakens it."""
    grounds = list(_grounds(profile, row)) or [reasons.NotRaced()]
    if profile.target.synthetic_data and SyntheticData() not in grounds:
        grounds.append(SyntheticData())
    return reasons.HowSure(
        memory_source=row.peak.source,
        time_source=None if row.overhead is None else row.overhead.source,
        device=profile.environment.device,
        may_exceed_budget=row.fit is Fit.MAYBE,
        missing_parts=len(profile.missing),
        grade=_grade(row),
        grounds=tuple(grounds),
    )


def _grade(row: Row) -> Literal["known", "likely", "a guess"]:
    """How far the promise can be trusted."""
    if row.is_raced and row.raced is not None:
        return "known" if row.raced.counts and len(row.raced.contestant.losses) > 1 else "likely"
    return "likely" if row.is_promising else "a guess"


def _grounds(profile: Profile, row: Row) -> Iterator[Reason]:
    """Yield what the promise of quality rests on, and what there is to doubt about it."""
    if row.raced is not None:
        yield reasons.RacedSeeds(len(row.raced.contestant.losses))
        yield from row.raced.differs
        if profile.race is not None and profile.race.interrupted:
            yield reasons.RaceCutShort()
    if row.is_raced:
        return
    if row.predicted is not None:
        yield reasons.PredictedLayers(row.predicted.layers)
        yield from row.predicted.doubts
    if row.published is not None and not row.is_baseline:
        yield reasons.PublishedNear(row.published.certainty)
