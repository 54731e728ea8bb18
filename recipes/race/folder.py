"""The folder of a race: its plan, one line for every piece of a run that is done, the runs, and the result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from subopt.errors import FileFormatError, OptionError, UsageError, quoted
from subopt.optimizers import get_method
from subopt.profilers.record.base import Count, Record
from subopt.profilers.record.race import LeftOut, Race, Rate, Seconds

from ..run_folder.checkpoint import discard_all
from ..run_folder.disk import sync, write_text
from ..run_folder.folder import RunFolder, already_exists, content_of
from .candidates import Candidate, Setting
from .design import Design
from .step_time import CandidateStepTime

_AFRESH = "start over with --force and without --resume"

_Kind = TypeVar("_Kind", bound=Record)


class RacePlan(Record):
    """What a race does, settled before its first step; a resumed race goes by the same.

    `settings`: what was asked for, by which a race is known again. `step_times`: by method; empty where a single method
    races. `run_seconds`: training time of the recipe's own run, and so of everyone's; 0 where nothing was timed.
    `spent_seconds`: real time until the first step.
    """

    schema_version: Literal[2] = 2
    settings: dict[str, str]
    design: Design
    candidates: list[Candidate] = Field(min_length=1)
    step_times: dict[str, CandidateStepTime] = Field(default_factory=dict)
    run_seconds: Seconds = 0.0
    left_out: list[LeftOut] = Field(default_factory=list)
    spent_seconds: Seconds = 0.0


class Point(Record):
    """A run has come to a rung, at `share` of it: its loss there, None where it diverged on the way."""

    method: str
    lr: Rate
    share: Annotated[float, Field(gt=0, le=1)]
    step: Count
    tokens: Count
    loss: float | None
    batch_losses: list[float] = Field(default_factory=list)


class Entry(Record):
    """A line of `points.jsonl`: a rung that a run came to, or a method that had to be left out, and the real time."""

    point: Point | None = None
    left_out: LeftOut | None = None
    wall_seconds: Seconds


class RaceFolder:
    """Paths of a race's folder, and how they are read and written.

    Attributes:
        path: The folder.
        plan: Settings, candidates and step times.
        points: The rungs that runs came to, in order.
        runs: One run folder for every method and rate.
        result: The race's record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"
        self.points = path / "points.jsonl"
        self.runs = path / "runs"
        self.result = path / "race.json"

    def run_of(self, setting: Setting) -> RunFolder:
        """Return the folder of one run."""
        return RunFolder(self.runs / setting.name)

    def check(self, *, resume: bool, force: bool) -> None:
        """Make sure that the folder may be written, changing nothing.

        Raises:
            UsageError: It holds something, and neither `resume` nor `force` was given; or nothing to resume.
        """
        content = content_of(self.path)
        if resume and not self.plan.exists():
            hint = "choose the --output of the race to go on with, or start one without --resume"
            raise UsageError(f"{self.path} holds no race to resume", hint)
        if content and not resume and not force:
            raise already_exists(self.path)

    def start(self, plan: RacePlan) -> None:
        """Write a plan, and clear an earlier race out of the folder; nothing else in it is touched."""
        self.path.mkdir(parents=True, exist_ok=True)
        for stale in (self.result, self.plan, self.points):
            stale.unlink(missing_ok=True)
        shutil.rmtree(self.runs, ignore_errors=True)
        write_text(self.plan, plan.model_dump_json(indent=1) + "\n")

    def load_plan(self, settings: Mapping[str, str]) -> RacePlan:
        """Return the plan of the race to go on with.

        Raises:
            FileFormatError: It cannot be read.
            UsageError: It is another race's.
        """
        plan = _parsed(RacePlan, _text(self.plan), str(self.plan))
        methods = [candidate.method for candidate in plan.candidates]
        untimed = set(methods) - plan.step_times.keys() if plan.step_times else set()
        if len(set(methods)) < len(methods) or untimed or not plan.design.rate_rungs:
            raise FileFormatError(
                f"{self.plan}: candidates, step times and rungs do not agree", _AFRESH
            )
        for candidate in plan.candidates:
            try:
                get_method(candidate.method).resolve(candidate.options)
            except OptionError as error:
                raise FileFormatError(f"{self.plan}: {error.message}", _AFRESH) from None
        changed = [key for key, value in settings.items() if plan.settings.get(key) != value]
        if changed:
            key = changed[0]
            raise UsageError(
                f"the race in {self.path} was started with {key} {quoted(plan.settings.get(key))}, "
                f"not {settings[key]}",
                "resume with what it was started with, or start over with --force and without --resume",
            )
        return plan

    def load_entries(self, plan: RacePlan) -> list[Entry]:
        """Return what is done; a last line that a kill cut short is dropped from the file.

        Raises:
            FileFormatError: A line cannot be read, or does not belong to the plan.
        """
        if not self.points.exists():
            return []
        text = _text(self.points)
        whole, _, cut = text.rpartition("\n")
        if cut:
            write_text(self.points, whole + "\n" if whole else "")
        known = {candidate.method for candidate in plan.candidates}
        entries = []
        for number, line in enumerate(whole.splitlines(), start=1):
            where = f"{self.points}:{number}"
            entry = _parsed(Entry, line, where)
            of = entry.point or entry.left_out
            if of is None or of.method not in known:
                raise FileFormatError(f"{where}: no run of this race's methods", _AFRESH)
            entries.append(entry)
        return entries

    def append(self, entry: Entry) -> None:
        """Add a line and force it onto the disk."""
        is_new = not self.points.exists()
        with self.points.open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(self.path)

    def discard_checkpoints(self, setting: Setting) -> None:
        """Free what a run that was stopped takes on the disk; its recipe and metrics stay."""
        discard_all(self.run_of(setting).checkpoints)

    def load_result(self) -> Race | None:
        """Return the race's record, or None before it has one.

        Raises:
            FileFormatError: It cannot be read.
        """
        if not self.result.exists():
            return None
        return _parsed(Race, _text(self.result), str(self.result))

    def save(self, race: Race) -> None:
        """Write the race's record in one step."""
        write_text(self.result, race.model_dump_json(indent=1) + "\n")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FileFormatError(f"{path} cannot be read: {why}") from None


def _parsed(kind: type[_Kind], text: str, where: str) -> _Kind:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"{key}: {first['msg']}" if key else first["msg"]
        raise FileFormatError(f"{where} cannot be read: {what}", _AFRESH) from None
