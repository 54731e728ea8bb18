"""What more steps are worth: tuned AdamW on the dev tasks with half and with a third of the steps, own schedule each.

The rate is the best of the full length or the next above it, whichever is better: shorter runs want higher rates.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from .methods import BASELINE, best_rate, neighbour
from .recipes import recipe_of
from .rows import Row, append_row, loss_of, losses_by_rate, read_rows
from .runs import run
from .task_list import TASKS

PARTS = (2, 3)  # of the steps, one of so many


def train_shorter(runs: Path, shorter: Path) -> None:
    """Run what the file of shorter runs lacks."""
    known = {(row["task"], row["lr"], row["steps"]) for row in read_rows(shorter)}
    rows = read_rows(runs)
    for name, task in TASKS.items():
        best = best_rate(losses_by_rate(rows, name, BASELINE))
        if task.half != "dev" or best is None:
            continue
        for part in PARTS:
            for lr in (best, neighbour(best, 1)):
                steps = round(task.steps / part)
                if (name, lr, steps) not in known:
                    row = run(name, recipe_of(task, BASELINE, lr, steps=steps), 1.0)
                    append_row(shorter, row)
                    print(f"{name} {steps} steps at {lr:g}: {row['loss']}", flush=True)


def gains_by_doubling(runs: Path, shorter: Path) -> Iterator[tuple[Row, float]]:
    """Yield, for each shorter run's task and length, a row of it and the gain by twice the steps.

    The gain is a share of perplexity for language models, else of the loss: 1 - (measure / measure at the shorter
    length)^(1 / doublings).
    """
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in read_rows(shorter):
        groups[row["task"], row["steps"]].append(row)
    rows = read_rows(runs)
    for (name, steps), group in groups.items():
        full = min(losses_by_rate(rows, name, BASELINE).values())
        less = min(map(loss_of, group))
        logs = less - full if TASKS[name].kind == "language" else math.log(less / full)
        yield group[0], 1 - math.exp(-logs / math.log2(TASKS[name].steps / steps))
