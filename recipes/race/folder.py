"""The folder of a race: its plan, one line for every finished trial, and in the end the result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from subopt.errors import FileFormatError, OptionError, UsageError, quoted
from subopt.optimizers import get_method
from subopt.profilers.record.base import Count, Record
from subopt.profilers.record.race import LeftOut, Race, Seconds, Trial

from ..run_folder.disk import sync, write_text
from ..run_folder.folder import already_exists, content_of
from .candidates import Candidate
from .plan import repetitions
from .step_time import CandidateStepTime

_AFRESH = "start over with --force and without --resume"

_Kind = TypeVar("_Kind", bound=Record)


class RacePlan(Record):
    """What a race does, settled before its first trial; a resumed race goes by the same.

    `settings`: what was asked for, by which a race is known again. `trials`: of each contestant's search.
    `spent_seconds`: real time until the first trial.
    """

    renamed: ClassVar = {"paces": "step_times"}

    schema_version: Literal[1] = 1
    settings: dict[str, str]
    minutes: Seconds
    horizon_seconds: Seconds
    finals_seconds: Seconds
    trials: Count
    finalists: Count
    seeds: list[Count]
    contestants: list[Candidate]
    step_times: dict[str, CandidateStepTime]
    left_out: list[LeftOut] = Field(default_factory=list)
    spent_seconds: Seconds

    @property
    def total(self) -> int:
        """Trials in all, those of the finals included."""
        count = len(self.contestants)
        return count * self.trials + repetitions(count, self.finalists, len(self.seeds))


class Entry(Record):
    """A line of `trials.jsonl`: a finished trial, or a method that had to be left out, and the real time it took."""

    trial: Trial | None = None
    left_out: LeftOut | None = None
    wall_seconds: Seconds


class RaceFolder:
    """Paths of a race's folder, and how they are read and written.

    Attributes:
        path: The folder.
        plan: Settings, contestants and step times.
        trials: The finished trials, in order.
        result: The race's record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"
        self.trials = path / "trials.jsonl"
        self.result = path / "race.json"

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
        for stale in (self.result, self.plan, self.trials):
            stale.unlink(missing_ok=True)
        write_text(self.plan, plan.model_dump_json(indent=1) + "\n")

    def load_plan(self, settings: Mapping[str, str]) -> RacePlan:
        """Return the plan of the race to go on with.

        Raises:
            FileFormatError: It cannot be read.
            UsageError: It is another race's.
        """
        plan = _parsed(RacePlan, _text(self.plan), str(self.plan))
        known = {candidate.method for candidate in plan.contestants}
        is_whole = known and plan.seeds and not known - plan.step_times.keys()
        if not is_whole or len(known) < len(plan.contestants):
            raise FileFormatError(
                f"{self.plan}: contestants, step times and seeds do not agree", _AFRESH
            )
        for candidate in plan.contestants:
            _check_options(candidate, str(self.plan))
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
        """Return the finished trials; a last line that a kill cut short is dropped from the file.

        Raises:
            FileFormatError: A line cannot be read, or does not belong to the plan.
        """
        if not self.trials.exists():
            return []
        text = _text(self.trials)
        whole, _, cut = text.rpartition("\n")
        if cut:
            write_text(self.trials, whole + "\n" if whole else "")
        known = {candidate.method for candidate in plan.contestants}
        entries = []
        for number, line in enumerate(whole.splitlines(), start=1):
            where = f"{self.trials}:{number}"
            entry = _parsed(Entry, line, where)
            of = entry.trial or entry.left_out
            if of is None or of.method not in known:
                raise FileFormatError(f"{where}: no trial of this race's methods", _AFRESH)
            if entry.trial is not None:
                _check_options(entry.trial, where)
            entries.append(entry)
        return entries

    def append(self, entry: Entry) -> None:
        """Add a line and force it onto the disk."""
        is_new = not self.trials.exists()
        with self.trials.open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(self.path)

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


def _check_options(setting: Candidate | Trial, where: str) -> None:
    try:
        get_method(setting.method).resolve(setting.options)
    except OptionError as error:
        raise FileFormatError(f"{where}: {error.message}", _AFRESH) from None
