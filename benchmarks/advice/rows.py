"""Runs as data: one JSON line each, appended as they end, read again by whoever judges a policy.

Each line has `task`, `half` (dev, held_out), `kind`, `parameters`, `width`, `depth`, `examples_per_step`,
`tokens_per_step`, `fine_tunes`; `method`, `lr`, `fallback_lr`, `seed`, and, where not 0 and none, `weight_decay` and
`options`; `steps`, `step_ms_ratio` (the time of a step, AdamW's being 1); `status` (done, diverged); `first_loss` (held
out, untrained), `loss` (held out, at the end; None where it diverged), `curve` ([share of the run's own steps, held-out
loss], ...), `train_curve` ([share, mean training loss since the last share], ...), `seconds`.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Return every run of the file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_row(path: Path, row: Row) -> None:
    """Add one line; it is on the disk before the next run begins."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def loss_of(row: Row) -> float:
    """Return the held-out loss at the end; infinite where the run diverged."""
    return math.inf if row["loss"] is None else float(row["loss"])


def losses_by_rate(
    rows: Iterable[Row], task: str, method: str, seed: int = 0
) -> dict[float, float]:
    """Return the loss of a method's runs of a task by their rates."""
    return {row["lr"]: loss_of(row) for row in runs(rows, task, method, seed)}


def runs(rows: Iterable[Row], task: str, method: str, seed: int = 0) -> Iterator[Row]:
    """Yield the runs of a method on a task."""
    for row in rows:
        if (row["task"], row["method"], row["seed"]) == (task, method, seed):
            yield row
