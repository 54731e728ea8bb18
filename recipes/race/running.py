"""The running of a planned race: its searches interleaved, then its finals, every finished trial on disk at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from subopt.errors import DoesNotFitError, OptionError, PreflightError
from subopt.profilers.device import release_memory
from subopt.profilers.record.race import LeftOut, OptionValue, Race, Trial

from ..training.interrupt import Interrupt
from .candidates import Candidate
from .events import Dropped, OnEvent, PointReached, TimeUp, TrialEnded, TrialStarted
from .folder import Entry, RaceFolder, RacePlan
from .search import Search, best_of
from .step_time import steps_within
from .trial import Order, RaceSetup, run_trial
from .verdicts import MethodResult, contestants_of, finalists_of, method_results, repeats


class Running:
    """A planned race, from its beginning or from the trials in the folder that an earlier session finished.

    It ends early where the user interrupts it, or at `end_s` by `time.monotonic`.
    """

    def __init__(
        self,
        setup: RaceSetup,
        plan: RacePlan,
        folder: RaceFolder,
        *,
        interrupt: Interrupt,
        end_s: float,
        on_event: OnEvent,
    ) -> None:
        self._setup, self._plan, self._folder = setup, plan, folder
        self._interrupt, self._on_event = interrupt, on_event
        self._end_s = end_s
        self._entries = folder.load_entries(plan)
        self._baseline = plan.contestants[0].method
        self._searches = {
            candidate.method: Search(candidate, seed=plan.seeds[0])
            for candidate in plan.contestants
        }
        self._is_cut = False
        for trial in self._trials():
            if trial.role == "search":
                self._searches[trial.method].replay(trial)

    @property
    def done(self) -> int:
        """Trials that are over."""
        return len(self._trials())

    def run(self, minutes: float) -> Race:
        """Do what is left of the plan, as far as the time goes; `minutes` were asked for."""
        search_end_s = self._end_s - self._plan.finals_seconds
        first, *others = self._plan.contestants
        self._search([first], search_end_s)
        self._search(others, search_end_s)
        if not self._interrupt.requested:
            self._finals()
        if self._is_cut and not self._interrupt.requested:
            self._on_event(TimeUp())
        return self._result(minutes)

    def _trials(self) -> list[Trial]:
        return [entry.trial for entry in self._entries if entry.trial is not None]

    def _dropped(self) -> list[LeftOut]:
        return [entry.left_out for entry in self._entries if entry.left_out is not None]

    def _in_the_race(self) -> list[Candidate]:
        gone = {item.method for item in self._dropped()}
        return [candidate for candidate in self._plan.contestants if candidate.method not in gone]

    def _search(self, candidates: Sequence[Candidate], end_s: float) -> None:
        """Run the trials of these methods' searches interleaved, one of each in every round."""
        for number in range(self._plan.trials):
            for candidate in candidates:
                search = self._searches[candidate.method]
                if len(search.trials) > number or candidate not in self._in_the_race():
                    continue
                if not self._is_time(end_s):
                    return
                lr, options = search.propose()
                trial = self._run(self._order(candidate, lr, options), search.is_hopeless, end_s)
                if trial is not None:
                    search.tell(trial)
                elif candidate in self._in_the_race():
                    return

    def _finals(self) -> None:
        """Repeat the best settings with the other seeds, seed by seed."""
        chosen = finalists_of(self._method_results(), self._baseline, self._plan.finalists)
        for seed in self._plan.seeds[1:]:
            for result in chosen:
                best = result.best
                if best is None or any(repeats(trial, best, seed) for trial in self._trials()):
                    continue
                if not self._is_time(self._end_s):
                    return
                order = self._order(result.candidate, best.lr, best.options, seed)
                self._run(order, lambda part, loss: False, self._end_s)

    def _is_time(self, end_s: float) -> bool:
        is_time = not self._interrupt.requested and monotonic() < end_s
        self._is_cut |= not is_time
        return is_time

    def _method_results(self) -> list[MethodResult]:
        return method_results(self._in_the_race(), self._trials())

    def _order(
        self,
        candidate: Candidate,
        lr: float,
        options: dict[str, OptionValue],
        seed: int | None = None,
    ) -> Order:
        plan = self._plan
        step_time = plan.step_times[candidate.method]
        steps, step_ms = steps_within(plan.horizon_seconds, step_time, candidate.method, options)
        return Order(
            method=candidate.method,
            options=options,
            lr=lr,
            seed=plan.seeds[0] if seed is None else seed,
            role="search" if seed is None else "final",
            steps=steps,
            step_ms=step_ms,
            fallback_lr=None if candidate.method == self._baseline else self._fallback_lr(),
        )

    def _fallback_lr(self) -> float:
        """The baseline's best rate: of what the other methods leave alone."""
        best = best_of(self._searches[self._baseline].trials)
        return self._plan.contestants[0].start_lr if best is None else best.lr

    def _run(
        self, order: Order, is_hopeless: Callable[[int, float], bool], end_s: float
    ) -> Trial | None:
        """Run a trial and put it on disk; None where it was cut short or could not be run."""
        began_s = monotonic()
        done = len(self._trials())
        self._on_event(TrialStarted(order, done + 1, max(self._plan.total, done + 1)))
        trial, left_out = None, None
        try:
            trial = run_trial(
                self._setup,
                order,
                is_hopeless=is_hopeless,
                is_over=lambda: not self._is_time(end_s),
                on_point=lambda point: self._on_event(PointReached(order, point)),
            )
        except (DoesNotFitError, OptionError, PreflightError) as error:
            if order.method == self._baseline:
                raise
            left_out = LeftOut(method=order.method, reason=error.message)
        release_memory()  # before the next one is built: one model is alive at a time
        if trial is None and left_out is None:
            return None
        wall_s = monotonic() - began_s
        self._entries.append(Entry(trial=trial, left_out=left_out, wall_seconds=wall_s))
        self._folder.append(self._entries[-1])
        self._on_event(Dropped(left_out) if left_out else TrialEnded(self._trials()[-1]))
        return trial

    def _result(self, minutes: float) -> Race:
        setup, plan = self._setup, self._plan
        found = self._method_results()
        result = {item.candidate.method for item in found}
        late = [
            LeftOut(method=candidate.method, reason="the time was over before its first trial")
            for candidate in self._in_the_race()
            if candidate.method not in result
        ]
        return Race(
            baseline=self._baseline,
            metric="held-out loss" if setup.target.data.has_eval else "training loss",
            minutes=minutes,
            spent_seconds=plan.spent_seconds + sum(entry.wall_seconds for entry in self._entries),
            horizon_seconds=plan.horizon_seconds,
            device=str(setup.device),
            precision=setup.recipe.precision,
            batch_size=setup.recipe.data.batch_size,
            accumulate=setup.recipe.data.accumulate,
            target_sha256=setup.target.record.sha256,
            seeds=plan.seeds,
            fallback_lr=self._fallback_lr(),
            contestants=contestants_of(
                found,
                self._trials(),
                baseline=self._baseline,
                seeds=plan.seeds,
                step_times=plan.step_times,
                horizon_s=plan.horizon_seconds,
            ),
            left_out=[*plan.left_out, *self._dropped(), *late],
            trials=self._trials(),
            interrupted=self._is_cut,
        )
