"""Why the choice is what it is: its promise, which evidence decided, who comes next, what plain AdamW would do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from subopt.profilers.record.profile import Profile

from ..evidence.doubts import SyntheticData
from ..evidence.raced import RacedGain
from ..evidence.start import early_doubts, starts_too_high
from ..plan.budget import Fit
from ..prior.traits import Measure, measure_of
from ..ranking.reasons import LowRankLayers
from ..ranking.row import EvidenceType, Objective, Row
from ..ranking.rule import counts_published
from ..reason import Reason
from . import reasons
from .answer import Confidence

# A race of fewer steps says little of a longer run, whatever its share.
_TELLING_STEPS = 100

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
    evidence: dict[EvidenceType, Reason | None] = {
        "raced": row.raced,
        "prior": row.prior,
        "predicted": row.predicted,
        "published": row.published,
    }
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
        better = [row for row in others if _score(row) > 0 and row.method in leaner]
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
    if best.waits and _score(best) > 0 and objective == "quality":
        return reasons.WaitingRival(*rival)
    if _score(best) > 0 and best.fit is not Fit.YES:
        too_large = reasons.LargeRival if best.fit is Fit.NO else reasons.TightRival
        return too_large(*rival, best.peak.bytes)
    if _score(best) > 0 and objective != "quality":
        return reasons.OtherObjective(*rival, objective)
    return reasons.Rival(*rival)


def _score(row: Row) -> float:
    return -math.inf if row.score is None else row.score


def how_sure(profile: Profile, row: Row, rows: Sequence[Row]) -> reasons.HowSure:
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
        confidence=confidence_of(profile, row, rows),
        grounds=tuple(grounds),
    )


def confidence_of(profile: Profile, chosen: Row, rows: Sequence[Row]) -> Confidence:
    """Return how sure the choice of a method is.

    `high`: a race of this run settles it: at least 30 % of the run and 100 steps, and a lead larger than its error.
    `medium`: a race that ended sooner or left it open; or a promise larger than its error, and for plain AdamW that no
    other method may lead within its error. `low`: the rest, and whatever is said while the first loss is far too high.
    """
    rivals = [row for row in rows if row is not chosen and row.is_recommendable]
    if chosen.is_raced and chosen.raced is not None:
        decisive = chosen.raced if not chosen.is_baseline else _closest_race(rivals)
        return "high" if decisive is not None and _settles_for_good(decisive) else "medium"
    if starts_too_high(profile) or (chosen.expected is None and not chosen.is_baseline):
        return "low"
    if chosen.is_baseline:
        open_ones = [row for row in rivals if row.expected is not None]
        can_lead = any(_score(row) + row.expected.error > 0 for row in open_ones if row.expected)
        return "low" if can_lead else "medium"
    return "medium" if chosen.is_promising else "low"


def _closest_race(rivals: Sequence[Row]) -> RacedGain | None:
    """The race's result of the method that came closest to the chosen one."""
    raced = [row for row in rivals if row.is_raced]
    return max(raced, key=_score).raced if raced else None


def _settles_for_good(raced: RacedGain) -> bool:
    steps = raced.contestant.steps * (raced.share or 0.0)
    return raced.share is not None and raced.settles and raced.counts and steps >= _TELLING_STEPS


def _grounds(profile: Profile, row: Row) -> Iterator[Reason]:
    """Yield what the promise of quality rests on, and what there is to doubt about it."""
    if row.raced is not None:
        yield reasons.RacedSeeds(len(row.raced.contestant.losses))
        yield from row.raced.differs
        if profile.race is not None and profile.race.interrupted:
            yield reasons.RaceCutShort()
    if row.is_raced:
        return
    if row.prior is not None:
        yield reasons.Comparisons(row.prior.regime)
    if row.predicted is not None and not early_doubts(profile):
        yield reasons.PredictedLayers(row.predicted.layers)
        yield from row.predicted.doubts
    if row.published is not None and counts_published(row.published, row.prior):
        yield reasons.PublishedNear(row.published.certainty)
