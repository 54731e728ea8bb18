"""Is the advice right? Policies judged on runs of every method at every rate, half of the tasks held out.

    python benchmarks/bench_advice.py                         # all that follows, in turn; what is known already is kept
    python benchmarks/bench_advice.py train --time-limit 60   # each method's search on each task, then second seeds
    python benchmarks/bench_advice.py profile                 # a quick profile of each task, which recommend reads
    python benchmarks/bench_advice.py recommended             # trains what recommend writes, as it is written
    python benchmarks/bench_advice.py shorter                 # AdamW with half and a third of the steps, on dev
    python benchmarks/bench_advice.py asked                   # runs what policies ask for and nobody has
    python benchmarks/bench_advice.py render                  # policies against the rows: seconds

Rows are described in `advice/rows.py`, tasks and halves in `advice/task_list.py`.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from advice.as_written import profile, train_recommended
from advice.designs import COMPARED
from advice.lengths import train_shorter
from advice.outcomes import outcomes
from advice.policies import policies, raced_policy
from advice.rows import Row, read_rows
from advice.runs import Wanted, train, wanted
from advice.score import scores
from advice.task_list import TASKS
from common.conditions import RESULTS
from render.advice import render

NAME = "advice_cpu_202612"
ROWS = RESULTS / f"{NAME}.jsonl"
RECOMMENDED = RESULTS / f"{NAME}_recommended.jsonl"
SHORTER = RESULTS / f"{NAME}_shorter.jsonl"
STEP_TIMES = RESULTS / f"{NAME}_step_times.json"
NOTES = RESULTS / f"{NAME}_notes.md"


def asked(rows: list[Row]) -> Iterator[Wanted]:
    """Yield the runs that a policy asks for and that are not among the rows."""
    tasks = outcomes(rows, read_rows(RECOMMENDED))
    compared = [raced_policy(name, design) for name, design in COMPARED.items()]
    for policy in (*policies(), *compared):
        scores(policy, tasks)
    for task in tasks:
        yield from ((task.task, method, lr, 0) for method, lr in sorted(task.missing))


def train_all(minutes: float) -> None:
    """Run what the search wants."""
    train(ROWS, STEP_TIMES, wanted, minutes)


def train_asked(minutes: float) -> None:
    """Run what the policies ask for."""
    train(ROWS, STEP_TIMES, asked, minutes)


def profile_all(_: float) -> None:
    """Profile each task."""
    for task in TASKS:
        profile(task)


def recommend_all(_: float) -> None:
    """Train each recommended recipe."""
    train_recommended(RECOMMENDED, STEP_TIMES)


def shorten_all(_: float) -> None:
    """Train AdamW for fewer steps."""
    train_shorter(ROWS, SHORTER)


def report(_: float) -> None:
    """Write the report from the rows, and from the notes beside them."""
    notes = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
    tasks = outcomes(read_rows(ROWS), read_rows(RECOMMENDED))
    (RESULTS / f"{NAME}.md").write_text(render(tasks, notes), encoding="utf-8")


STAGES: dict[str, Callable[[float], None]] = {
    "train": train_all,
    "profile": profile_all,
    "recommended": recommend_all,
    "shorter": shorten_all,
    "asked": train_asked,
    "render": report,
}


def main() -> None:
    """Do one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("all", *STAGES), nargs="?", default="all")
    parser.add_argument("--time-limit", type=float, default=60.0, help="minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, stage in STAGES.items():
        if arguments.stage in ("all", name):
            stage(arguments.time_limit)


if __name__ == "__main__":
    main()
