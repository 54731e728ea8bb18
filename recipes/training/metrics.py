"""`metrics.jsonl`: one JSON object per line, appended as the run goes, in step with its checkpoints."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..run_folder.disk import disk_full_as_error, write_text
from .events import Evaluated, Stepped

_STEP_KEYS = (
    "step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "step_ms", "memory_bytes",
)  # fmt: skip


class MetricsLog:
    """Appends to a metrics file.

    A resumed run first drops what was written after its checkpoint, so no step is listed twice.

    Raises:
        DiskFullError: Of every method: the disk or the quota is full.
    """

    def __init__(self, path: Path, *, from_step: int = 0) -> None:
        retained = [entry for entry in read_metrics(path) if entry["step"] <= from_step]
        lines = [json.dumps(entry) + "\n" for entry in retained] if from_step else []
        write_text(path, "".join(lines))
        self._path = path
        # Without a buffer: what a full disk refused must not be written again, and fail again, in closing.
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def stepped(self, event: Stepped) -> None:
        """Append one optimizer step."""
        self._append(step_entry(event))

    def evaluated(self, event: Evaluated) -> None:
        """Append one evaluation."""
        self._append({"step": event.step, "eval_loss": event.loss})

    def sync(self) -> None:
        """Force what was appended onto the disk: a checkpoint must never be ahead of its metrics."""
        with disk_full_as_error("the metrics", self._path):
            os.fsync(self._file.fileno())

    def _append(self, entry: dict[str, Any]) -> None:
        line = (json.dumps(entry) + "\n").encode()
        with disk_full_as_error("the metrics", self._path):
            while line:
                line = line[self._file.write(line) :]


def step_entry(event: Stepped) -> dict[str, Any]:
    """Return what is written down of a step."""
    return {key: getattr(event, key) for key in _STEP_KEYS}


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a metrics file, leaving out a last line that a kill cut short."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                return
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                yield entry


def median_step_ms(path: Path, *, period: int = 1) -> float | None:
    """Return the median time of a step over the run, or None before the second step.

    The first one is left out: it warms up caches and makes the first bases.

    Args:
        path: The metrics file.
        period: Steps between two refreshes of the method's bases. The median of single steps would leave refreshes out,
            so it is that of the means of `period` steps in a row, where the run has two of those.
    """
    found = (entry.get("step_ms") for entry in read_metrics(path))
    times = [step_ms for step_ms in found if isinstance(step_ms, float)][1:]
    if len(times) >= 2 * period:
        starts = range(0, len(times) - period + 1, period)
        times = [statistics.fmean(times[start : start + period]) for start in starts]
    return statistics.median(times) if times else None
