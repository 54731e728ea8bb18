"""What the history of this machine holds, and how accurate its predictions were, by device and precision."""

from __future__ import annotations

from collections import defaultdict

from ..record.base import Count, Record
from ..record.cost import Ratios
from .calibration import peak_ratios, state_ratios, step_ratios
from .runs import PastRun, history_file, past_runs


class Accuracy(Record):
    """Runs of one device and precision: actual over predicted of every number; None where no run had it.

    `peak` is the allocator's, `process_peak` the growth of the whole process, which holds libraries too.
    """

    device: str
    precision: str
    runs: Count
    state: Ratios | None = None
    peak: Ratios | None = None
    process_peak: Ratios | None = None
    step_ms: Ratios | None = None


class HistorySummary(Record):
    """The history's file, None where it is turned off, and what it holds."""

    file: str | None
    runs: Count
    accuracy: list[Accuracy]


def history_summary() -> HistorySummary:
    """Return what the history holds."""
    path, runs = history_file(), past_runs()
    groups: defaultdict[tuple[str, str], list[PastRun]] = defaultdict(list)
    for run in runs:
        groups[run.device, run.precision].append(run)
    return HistorySummary(
        file=None if path is None else str(path),
        runs=len(runs),
        accuracy=[
            Accuracy(
                device=device,
                precision=precision,
                runs=len(kept),
                state=state_ratios(kept),
                peak=peak_ratios(kept, "allocator"),
                process_peak=peak_ratios(kept, "process"),
                step_ms=step_ratios(kept),
            )
            for (device, precision), kept in groups.items()
        ],
    )
