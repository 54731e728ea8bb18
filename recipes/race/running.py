"""A race that is planned: piece by piece of its runs, each on disk at once."""

from __future__ import annotations

import statistics
from time import monotonic

from subopt.errors import NonFiniteLossError, UsageError
from subopt.profilers.device import release_memory
from subopt.profilers.record.race import LeftOut

from ..run_folder.checkpoint import step_of
from ..run_folder.folder import RunFolder
from ..run_folder.result import Result
from ..training.events import Evaluated, Interrupting, Stepped, Warned
from ..training.events import Event as TrainingEvent
from ..training.interrupt import Interrupt
from ..training.metrics import read_metrics
from ..training.trainer import train
from .design import rung_step
from .events import Dropped, OnEvent, RunRow, RunState, RunStepped, Stood, TimeUp
from .folder import Entry, Point, RaceFolder, RacePlan
from .setup import RaceSetup
from .standing import Run, Standing
from .step_time import CANNOT_RUN


class Running:
    """A planned race, from its beginning or from the points that an earlier session came to.

    It ends early where the user interrupts it, or where the next piece would not end by `end_s` of `time.monotonic`.

    Attributes:
        entries: What is done.
        is_cut: Whether the time was over before the race was decided.
        is_interrupted: Whether a signal asked for the end.
    """

    def __init__(
        self,
        setup: RaceSetup,
        plan: RacePlan,
        folder: RaceFolder,
        *,
        interrupt: Interrupt,
        end_s: float | None,
        on_event: OnEvent,
    ) -> None:
        self._setup, self._plan, self._folder = setup, plan, folder
        self._interrupt, self._on_event, self._end_s = interrupt, on_event, end_s
        self._warned: set[str] = set()
        self.entries = folder.load_entries(plan)
        self.is_cut = False
        self.is_interrupted = False

    @property
    def standing(self) -> Standing:
        """How the race stands."""
        return Standing(self._plan, self.entries)

    def run(self) -> None:
        """Do what is left of the plan."""
        self._free()  # what an earlier session was killed before
        self._tell()
        while not self._is_asked_to_end() and (following := self.standing.next()) is not None:
            if not self._is_time_for(*following):
                self.is_cut = True
                self._on_event(TimeUp())
                break
            self._tell(training=following[0])
            entry = self._train(*following)
            release_memory()  # before the next one is built: one model is alive at a time
            if entry is None:
                break
            self.entries.append(entry)
            self._folder.append(entry)
            self._free()
            if entry.left_out is not None:
                self._on_event(Dropped(entry.left_out))
        self._tell()

    def _is_asked_to_end(self) -> bool:
        return self.is_interrupted or self._interrupt.requested

    def _train(self, run: Run, share: float) -> Entry | None:
        """Train a run up to a share of it; None where a signal interrupted it."""
        began_s = monotonic()
        candidate = run.candidate
        setting = candidate.setting(run.lr)
        step = rung_step(share, candidate.steps)
        self._refuse_if_beyond(run, step)
        listener = _Listener(run, self._warned, self._on_event)
        point = Point(
            method=candidate.method, lr=run.lr, share=share, step=step, tokens=0, loss=None
        )
        left_out = None
        try:
            result = train(
                self._setup.recipe_of(candidate, setting),
                recipe_path=self._setup.recipe_path,
                output=self._folder.run_of(setting).path,
                resume=True,
                device=str(self._setup.device),
                until=step,
                on_event=listener,
            )
        except NonFiniteLossError:
            pass  # the point says so: it has no loss
        except CANNOT_RUN as error:
            if len(self._plan.candidates) == 1:
                raise
            left_out = LeftOut(method=candidate.method, reason=error.message)
        else:
            if result.interrupted:
                return None
            found = self._found(self._folder.run_of(setting), listener, result)
            point = point.model_copy(update={"tokens": result.tokens} | found)
        finally:
            self.is_interrupted = listener.is_interrupted
        return Entry(
            point=None if left_out else point,
            left_out=left_out,
            wall_seconds=monotonic() - began_s,
        )

    def _refuse_if_beyond(self, run: Run, step: int) -> None:
        """Refuse to compare a run that somebody has trained further: its loss at the rung is not known any more."""
        folder = self._folder.run_of(run.candidate.setting(run.lr))
        newest = folder.newest_checkpoint()
        if newest is not None and step_of(newest) > step:
            raise UsageError(
                f"the run in {folder.path} has been trained beyond step {step}, where the race would compare it",
                "go on with that run alone, or start the race over with --force and without --resume",
            )

    def _found(self, folder: RunFolder, listener: _Listener, result: Result) -> dict[str, object]:
        """Return the loss to compare: held out, or the mean training loss of the second half of the steps so far."""
        evaluated = listener.evaluated
        if evaluated is not None and evaluated.step == result.step:
            return {"loss": evaluated.loss, "batch_losses": list(evaluated.batch_losses)}
        if self._setup.target.data.has_eval:
            return {"loss": result.eval_loss}
        entries = read_metrics(folder.metrics)
        late = [e["loss"] for e in entries if e["step"] > result.step // 2 and "loss" in e]
        return {"loss": statistics.fmean(late)}

    def _free(self) -> None:
        """Delete the checkpoints of the runs that were stopped."""
        standing = self.standing
        for run in standing.runs():
            if run not in standing.going_on:
                self._folder.discard_checkpoints(run.candidate.setting(run.lr))

    def _is_time_for(self, run: Run, share: float) -> bool:
        """Whether a run can come to its next rung before the time is over, by the pace of the plan."""
        if self._end_s is None:
            return True
        begin = max((point.share for point in self.standing.points(run)), default=0.0)
        return monotonic() + (share - begin) * self._plan.run_seconds <= self._end_s

    def _tell(self, training: Run | None = None) -> None:
        """Tell how the race stands, and which run trains now."""
        standing = self.standing
        rows = tuple(_row(standing, run, training) for run in standing.runs())
        done = sum(row.step / row.steps for row in rows)
        design = self._plan.design
        self._on_event(Stood(rows, done, design.cost_runs + design.decided_at))


def _row(standing: Standing, run: Run, training: Run | None) -> RunRow:
    points = standing.points(run)
    last = points[-1] if points else None
    state: RunState = "waiting" if last is None else "going on"
    if run == training:
        state = "training"
    elif last is not None and run not in standing.going_on:
        state = "diverged" if last.loss is None else "stopped"
    steps = run.candidate.steps
    step, loss = (0, None) if last is None else (last.step, last.loss)
    return RunRow(run.candidate.method, run.lr, step, steps, loss, state)


class _Listener:
    """Hears a run's events: passes on what a race tells too, and notes what the race needs.

    Attributes:
        evaluated: The last evaluation, or None.
        is_interrupted: Whether a signal came, be it in the last step.
    """

    def __init__(self, run: Run, warned: set[str], on_event: OnEvent) -> None:
        self._run, self._warned, self._on_event = run, warned, on_event
        self.evaluated: Evaluated | None = None
        self.is_interrupted = False

    def __call__(self, event: TrainingEvent) -> None:
        match event:
            case Stepped():
                method, lr = self._run.candidate.method, self._run.lr
                self._on_event(RunStepped(method, lr, event.step, event.steps, event.loss))
            case Evaluated():
                self.evaluated = event
            case Warned(message):
                if message not in self._warned:  # every run of the race would say the same
                    self._warned.add(message)
                    self._on_event(event)
            case Interrupting():
                self.is_interrupted = True
                self._on_event(event)
            case _:
                pass
