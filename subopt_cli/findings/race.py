"""What may be said of a race: who goes on, by how much, how far that can be trusted, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from subopt.recipes.evidence.raced import UNKNOWN_SPREAD

from ..text import percent, plural
from ..units import format_ms
from .seeded_race import seeded_summary

if TYPE_CHECKING:
    from subopt.profilers.record.race import Contestant, Race, Trial
    from subopt.recipes.race.design import Design
    from subopt.recipes.race.folder import RacePlan

# From here on methods can be told apart, where they differ by much: see docs/race.md.
_METHODS_SHARE = 0.3
_ORDER = ("going on", "stopped", "done", "diverged")


def race_facts(race: Race) -> list[tuple[str, str]]:
    """Return the findings of a race with a word for each, the verdict first."""
    if is_seeded(race):
        return [(f"{number}.", text) for number, text in enumerate(seeded_summary(race), start=1)]
    found = [("answer", _answer(race)), *_against(race), *_trust(race), *_rate(race)]
    return [*found, ("cost", _cost(race)), *_equal_time(race)]


def race_summary(race: Race) -> list[str]:
    """Return the same as sentences."""
    return [text for _, text in race_facts(race)]


def is_seeded(race: Race) -> bool:
    """Return whether a race is of an earlier version: short runs to their end, the best again with other seeds."""
    return race.share is None


def sorted_runs(race: Race) -> list[Trial]:
    """Return all runs: the one that goes on, those that were stopped, the furthest and best first, and the diverged."""
    furthest = [(_ORDER.index(run.status), -_share(race, run)) for run in race.trials]
    order = sorted(
        range(len(race.trials)), key=lambda k: (*furthest[k], race.trials[k].loss or 0.0)
    )
    return [race.trials[index] for index in order]


def rungs_of(runs: Sequence[Trial]) -> list[float]:
    """Return the shares of the run at which some runs were compared."""
    shares = {point.share for run in runs for point in run.curve}
    return sorted(share for share in shares if share is not None)


def loss_at(run: Trial, share: float) -> float | None:
    """Return a run's loss at a share of it; None where it was not compared there, or diverged."""
    return next((point.loss for point in run.curve if point.share == share), None)


def loss_text(value: float | None, digits: int = 4) -> str:
    """Return a loss with so many digits that count, a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def rate_at_the_end(race: Race, contestant: Contestant) -> str | None:
    """Return `lowest` or `highest` where a method's best rate is that of all it tried; None where it is neither."""
    own = [run for run in race.trials if run.method == contestant.method]
    tried = {run.lr for run in own if run.curve or run.status == "diverged"}
    if not contestant.losses or len(tried) < 2:
        return None
    if contestant.lr == max(tried):
        return "highest"
    return "lowest" if contestant.lr == min(tried) else None


def plan_sentence(plan: RacePlan) -> str:
    """Return what a race does, before it does it."""
    design, names = plan.design, ", ".join(candidate.method for candidate in plan.candidates)
    each = " each" if len(plan.candidates) > 1 else ""
    further = f" and up to {design.moves} further out" if design.moves else ""
    return (
        f"{names}: {plural(design.rates, 'rate')}{each}{further}, {'; '.join(_rungs(design))}; those that stop take at "
        f"most {percent(design.cost_runs)} of a run, {format_ms(1000 * design.cost_runs * plan.run_seconds)}"
    )


def _rungs(design: Design) -> Iterator[str]:
    """Yield what happens at each rung, in order."""
    own = "each method's best" if design.methods > 1 else "the best"
    for rung in design.rate_rungs:
        at, is_last = f"compared at {percent(rung.share)} of the run", rung is design.rate_rungs[-1]
        if is_last and design.lowers:
            yield f"{at}, half a decade below {own} goes on"
        else:
            yield f"{at}, {own} {_goes_on(rung.keep)}"
    for rung in design.method_rungs:
        yield f"all at {percent(rung.share)}, the best {_goes_on(rung.keep)}"


def _goes_on(count: int) -> str:
    return "goes on" if count == 1 else f"{count} go on"


def _share(race: Race, run: Trial) -> float:
    """The share of its whole run that a candidate was trained for."""
    whole = next((one.steps for one in race.contestants if one.method == run.method), 0)
    return run.steps / whole if whole else 0.0


def _answer(race: Race) -> str:
    best = race.contestants[0] if race.contestants and race.contestants[0].losses else None
    if best is None:
        return "Nothing is known yet: no run has come far enough to be compared."
    where = f"{race.metric} {loss_text(best.losses[0])} at {percent(race.share)} of its run"
    if race.winner is None:
        return f"Not decided yet. So far {best.method} at {best.lr:.2g} leads: {where}."
    won = f"{best.method} at {best.lr:.2g} goes on: {where}."
    return (
        f"The minutes ended before it was decided; the best so far: {won}"
        if race.interrupted
        else won
    )


def _against(race: Race) -> Iterator[tuple[str, str]]:
    """Yield the difference between the best method and AdamW, or the next one where AdamW is the best."""
    compared = [one for one in race.contestants if one.losses]
    if len(compared) < 2:
        return
    best, base = compared[0], next((c for c in compared if c.verdict == "baseline"), None)
    other = compared[1] if base is None or base is best else base
    pair = other if base is best else best
    if pair.difference is None or base is None:
        return
    difference = pair.difference if pair is best else -pair.difference
    error = pair.difference_error
    text = f"{difference:+.2g} against {other.method} at its best rate, {other.lr:.2g}"
    if other.losses[0] > 0:
        text += f" ({percent(abs(difference) / other.losses[0])} of the loss)"
    if error is not None:
        text += f"; +- {error:.1g} over the held-out batches, which tells nothing of other seeds"
    yield "by", f"{text}."


def _trust(race: Race) -> Iterator[tuple[str, str]]:
    """Yield what the verdict is worth, by when it was decided and how large the difference is."""
    share, losses = race.share or 0.0, [one.losses[0] for one in race.contestants if one.losses]
    if not losses or race.winner is None:
        return
    if len(race.contestants) < 2:
        yield "sure", _trust_in_rates(share)
        return
    at = f"Decided at {percent(share)} of the run"
    if share < 0.9 * _METHODS_SHARE:
        yield "sure", f"{at}, and methods cannot be told apart before about 30%: this is a guess."
    elif _gap(losses) < UNKNOWN_SPREAD:
        yield (
            "sure",
            (
                f"{at}, by {percent(_gap(losses))}: a difference of a few per cent says little even there; the rest "
                "of the run or another seed may turn it round."
            ),
        )
    else:
        yield "sure", f"{at}, by {percent(_gap(losses))}: a difference this large mostly stays."


def _trust_in_rates(share: float) -> str:
    """How far a look at the rates of one method can be trusted: see docs/race.md."""
    at = f"Decided at {percent(share)} of the run"
    if share < 0.9 * _METHODS_SHARE:
        return f"{at}: so early a look finds the best rate in about half of the cases. --share 50% decides at 30%."
    return f"{at}, where rates of one method can be told apart well."


def _gap(losses: Sequence[float]) -> float:
    """The share of its loss by which the next best method is behind; 0 where it is not."""
    best, others = losses[0], losses[1:]
    following = min(others, default=float("inf"))
    if following == float("inf"):
        return 1.0
    return max(0.0, (following - best) / abs(following)) if following else 0.0


def _lowered(race: Race, contestant: Contestant) -> Trial | None:
    """Return the higher rate of a method that was ahead of the one which goes on, and yet was stopped there."""
    own = [run for run in race.trials if run.method == contestant.method]
    chosen = next((run for run in own if run.lr == contestant.lr), None)
    if chosen is None:
        return None
    ahead = [run for run in own if run.lr > chosen.lr and _stopped_ahead(run, chosen)]
    return min(ahead, key=lambda run: run.curve[-1].loss, default=None)


def _stopped_ahead(run: Trial, chosen: Trial) -> bool:
    """Whether a run was stopped at a rung where its loss was the lower: no race does so but to lower the rate."""
    if run.status != "stopped" or not run.curve or run.curve[-1].share is None:
        return False
    loss = loss_at(chosen, run.curve[-1].share)
    return loss is not None and run.curve[-1].loss < loss


def _rate(race: Race) -> Iterator[tuple[str, str]]:
    lowered = [run for one in race.contestants if (run := _lowered(race, one)) is not None]
    if lowered:
        looked = ", ".join(f"{run.method}'s {run.lr:.2g}" for run in lowered)
        yield (
            "rates",
            f"{looked} looked best within the warm-up. What looks best there is too high for a whole run, so half a "
            "decade below it goes on.",
        )
    as_found = (one for one in race.contestants if _lowered(race, one) is None)
    ends = [(one, rate_at_the_end(race, one)) for one in as_found]
    told = [f"{one.method}'s {one.lr:.2g} ({end})" for one, end in ends if end]
    if told:
        yield (
            "rates",
            f"At an end of those tried: {', '.join(told)}. A better one may lie further out.",
        )


def _cost(race: Race) -> str:
    who = "All settings so far" if race.winner is None else "The settings that stopped"
    text = f"{who} took {percent(race.cost_runs)} of a run"
    if race.horizon_seconds:
        text += f" (a run is {format_ms(1000 * race.horizon_seconds)} of steps)"
    return f"{text}; {format_ms(1000 * race.spent_seconds)} in all."


def _equal_time(race: Race) -> Iterator[tuple[str, str]]:
    if len(race.contestants) > 1:
        steps = ", ".join(f"{one.method} {one.steps:,}" for one in race.contestants)
        yield "steps", f"Of equal time: {steps}."
