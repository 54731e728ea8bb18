"""How a race stands, and what it does next: successive halving, as a pure function of its plan and what is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .candidates import Candidate
from .design import Rung
from .folder import Entry, Point, RacePlan
from .rate_grid import half_decades_from, within


@dataclass(frozen=True, slots=True)
class Run:
    """A candidate at one of its rates."""

    candidate: Candidate
    lr: float


@dataclass(frozen=True, slots=True)
class Round:
    """Runs that are compared when all of them have come to a rung."""

    runs: tuple[Run, ...]
    rung: Rung


@dataclass(frozen=True, slots=True)
class Leader:
    """A method's best run, and the share of the run where it was found to be."""

    run: Run
    share: float


class Standing:
    """How a race stands after some entries.

    First the rates of each method are halved among themselves, then what is left of all methods. While the best of a
    method's rates is the lowest or the highest of them at the first rung, one further out is tried. Where the design
    lowers rates, the run half a decade below goes on, from its beginning if it is a new one. A rung is decided when
    everyone in it has come there. So the order of the entries does not matter, and an interrupted race goes on as it
    would have.

    Attributes:
        going_on: The runs that nobody has stopped.
        is_decided: Whether nothing is left to do.
    """

    def __init__(self, plan: RacePlan, entries: Iterable[Entry]) -> None:
        self._plan = plan
        done = list(entries)
        self._points = [entry.point for entry in done if entry.point is not None]
        gone = {entry.left_out.method for entry in done if entry.left_out is not None}
        self._candidates = [one for one in plan.candidates if one.method not in gone]
        self._rounds, self.going_on, self.is_decided = self._halved()

    def next(self) -> tuple[Run, float] | None:
        """Return the run to train next and the share to train it to; None where the race is decided."""
        missing = [
            (rung.share, run)
            for rung, run in ((each.rung, run) for each in self._rounds for run in each.runs)
            if self.loss(run, rung.share) is None
        ]
        if not missing:
            return None
        share, run = min(missing, key=lambda item: item[0])  # the first of equal ones
        return run, share

    def loss(self, run: Run, share: float) -> float | None:
        """Return a run's loss at a share of it, infinite where it diverged; None where it has not come there."""
        point = next((point for point in self.points(run) if point.share == share), None)
        if point is None:
            return None
        return math.inf if point.loss is None else point.loss

    def points(self, run: Run) -> list[Point]:
        """Return the rungs that a run has come to, in order."""
        own = (run.candidate.method, run.lr)
        found = [point for point in self._points if (point.method, point.lr) == own]
        return sorted(found, key=lambda point: point.share)

    def runs(self) -> list[Run]:
        """Return all runs there are so far, those that were stopped included, method by method."""
        found: list[Run] = []
        for each in self._rounds:
            found += (run for run in each.runs if run not in found)
        return found

    def leaders(self) -> list[Leader]:
        """Return each method's best run as far as it is known, the best method first.

        Those that go on are compared at the largest share that all of them have come to. Those that were stopped
        follow, the last one first. A method of which nothing finite is known is not among them.
        """
        found = [leader for one in self._candidates if (leader := self._leader(one)) is not None]
        ahead = [leader for leader in found if leader.run in self.going_on]
        behind = [leader for leader in found if leader not in ahead]
        share = min((leader.share for leader in ahead), default=0.0)
        ahead.sort(key=lambda leader: self._loss(leader.run, share))
        behind.sort(key=lambda leader: (-leader.share, self._loss(leader.run, leader.share)))
        return ahead + behind

    def _loss(self, run: Run, share: float) -> float:
        loss = self.loss(run, share)
        return math.inf if loss is None else loss

    def _halved(self) -> tuple[list[Round], list[Run], bool]:
        """Return the rounds there are so far, who goes on, and whether that is decided."""
        design = self._plan.design
        rounds, going_on, are_decided = [], [], True
        for candidate in self._candidates:
            own, kept, is_decided = self._halve(self._started(candidate), design.rate_rungs)
            if is_decided and design.lowers:
                more, kept, is_decided = self._lowered(kept)
                own += more
            rounds += own
            going_on += kept
            are_decided &= is_decided
        if not are_decided:
            return rounds, going_on, False
        rungs = design.method_rungs if len(going_on) > 1 else ()
        last, going_on, is_decided = self._halve(going_on, rungs)
        return [*rounds, *last], going_on, is_decided

    def _lowered(self, best: Sequence[Run]) -> tuple[list[Round], list[Run], bool]:
        """Return the round of the runs half a decade below these, at the same rung; one that diverges gives way."""
        rung = self._plan.design.rate_rungs[-1]
        lower = (within(half_decades_from(run.lr, -1)) for run in best)
        runs = [Run(run.candidate, lr) for run, lr in zip(best, lower, strict=True)]
        rounds, kept, is_decided = self._halve(runs, [rung])
        if not is_decided:
            return (
                rounds,
                [*best, *kept],
                False,
            )  # until then nobody knows which of the two is needed
        return rounds, kept or list(best), True

    def _halve(
        self, runs: Sequence[Run], rungs: Iterable[Rung]
    ) -> tuple[list[Round], list[Run], bool]:
        """Return the rounds of some runs as far as they are decided, who goes on, and whether the last one is."""
        rounds, going_on = [], list(runs)
        for rung in rungs:
            if not going_on:
                break
            rounds.append(Round(tuple(going_on), rung))
            kept = self._best(going_on, rung)
            if kept is None:
                return rounds, going_on, False
            going_on = kept
        return rounds, going_on, True

    def _best(self, runs: Sequence[Run], rung: Rung) -> list[Run] | None:
        """Return who goes on at a rung, best first; None before everyone has come there."""
        losses = [(self.loss(run, rung.share), run) for run in runs]
        known = [(loss, run) for loss, run in losses if loss is not None]
        if len(known) < len(runs):
            return None
        finite = [item for item in known if math.isfinite(item[0])]
        return [run for _, run in sorted(finite, key=lambda item: item[0])[: rung.keep]]

    def _started(self, candidate: Candidate) -> list[Run]:
        """Return the runs of a method, around its rate or from it upwards, and beyond while the best is at an end."""
        design, share = self._plan.design, self._plan.design.rate_rungs[0].share
        below = 0 if design.lowers else (design.rates - 1) // 2
        around = (half_decades_from(candidate.start_lr, k - below) for k in range(design.rates))
        rates = dict.fromkeys([within(lr) for lr in around])
        runs = [Run(candidate, lr) for lr in rates]
        for _ in range(design.moves):
            further = self._further_out(runs, share)
            if further is None:
                break
            runs.append(further)
        return sorted(runs, key=lambda run: run.lr)

    def _further_out(self, runs: Sequence[Run], share: float) -> Run | None:
        """Return the next run beyond the best one, where that is at an end of those tried; None where it is not."""
        losses = [(loss, run) for run in runs if (loss := self.loss(run, share)) is not None]
        if len(losses) < len(runs):
            return None
        best = min(losses, key=lambda item: (item[0], item[1].lr))[1]
        rates = [run.lr for run in runs]
        outwards = -1 if best.lr == min(rates) else 1 if best.lr == max(rates) else 0
        lr = half_decades_from(best.lr, outwards)
        return Run(best.candidate, lr) if outwards and lr == within(lr) else None

    def _leader(self, candidate: Candidate) -> Leader | None:
        """Return a method's best run at its last round that is decided and that somebody came through.

        Where there is none, the best of those that have come to the first rung.
        """
        own = list(self._own_rounds(candidate))
        decided = [each for each in own if self._best(each.runs, each.rung) is not None]
        for each in [*reversed(decided), *own[:1]]:
            losses = [(self._loss(run, each.rung.share), run) for run in each.runs]
            loss, run = min(losses, key=lambda item: item[0])
            if math.isfinite(loss):
                return Leader(run, each.rung.share)
        return None

    def _own_rounds(self, candidate: Candidate) -> Iterator[Round]:
        """Yield a method's part of the rounds, in order."""
        for each in self._rounds:
            runs = tuple(run for run in each.runs if run.candidate == candidate)
            if runs:
                yield Round(runs, each.rung)
