"""Turn the runs into the report of the advice: policies against the best run of each task; computes, runs nothing."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from advice.designs import COMPARED
from advice.methods import SEARCHES
from advice.outcomes import Outcomes
from advice.policies import Policy, policies, raced_policy
from advice.prefixes import Told, methods_told, rates_raced, rates_told
from advice.prior import rate_of
from advice.score import Score, Summary, scores, summary
from advice.task_list import TASKS, Half
from render.tiny_llama import table

HALVES: tuple[Half, ...] = ("dev", "held_out")
PREFIXES = (0.02, 0.05, 0.1, 0.3, 0.5)


class Goal(NamedTuple):
    """What was wanted of a policy on the held-out half."""

    what: str
    policy: str
    reached: Callable[[Summary], float]
    most: float


def _mean(found: Summary) -> float:
    return found.mean


def _worst_behind_adamw(found: Summary) -> float:
    return found.worst_behind_adamw


CONSTANT = "best method and rate of the other tasks"
GOALS = (
    Goal("without a race: mean log regret", "recommend, as written", _mean, 0.25),
    Goal(
        "without a race: most behind tuned AdamW, log",
        "recommend, as written",
        _worst_behind_adamw,
        math.log(1.05),
    ),
    Goal("a race of a tenth of a run", "race: a tenth of a run", _mean, 0.12),
    Goal("a race of one and a half runs", "race: one and a half runs", _mean, 0.05),
)


def render(tasks: Sequence[Outcomes], notes: str) -> str:
    """Return the report.

    Args:
        tasks: The runs, of both halves.
        notes: What the numbers mean, as Markdown; ends in a line break.
    """
    every = policies()
    found = {policy.name: scores(policy, tasks) for policy in every}
    return "\n".join([
        *_introduction(tasks),
        notes,
        *_goals(found, tasks),
        *_tables(every, found, tasks),
    ])


def _introduction(tasks: Sequence[Outcomes]) -> Iterator[str]:
    runs = sum(len(task.rows) for task in tasks)
    dev = sum(task.half == "dev" for task in tasks)
    yield "# Is the advice right?\n"
    yield (
        f"{len(tasks)} small tasks ({dev} dev, {len(tasks) - dev} held out), {len(SEARCHES)} methods, {runs} runs; "
        "each run of a task takes the same time on one core. A rate is searched by half decades until both neighbours "
        "of the best are worse. *Log regret* is log(held-out loss / lowest held-out loss of any run of the task): 0.05 "
        "is 5 % behind. *Cost* is the training spent on runs that are not the result, in whole runs. The `held out` "
        "tasks were named before the first run, and no constant is fitted to them; four of the `dev` tasks were added "
        "later. Written by `make bench-advice` from the rows beside this file; what a row means is in "
        "`benchmarks/advice/rows.py`.\n"
    )


def _goals(found: Mapping[str, Mapping[str, Score]], tasks: Sequence[Outcomes]) -> Iterator[str]:
    yield "## What was wanted, and what is reached on the held-out half\n"
    constant = summary(found[CONSTANT], tasks, "held_out")
    rows = []
    for goal in GOALS:
        reached = goal.reached(summary(found[goal.policy], tasks, "held_out"))
        verdict = "reached" if reached <= goal.most else "missed"
        values = (goal.most, reached, goal.reached(constant))
        rows.append((goal.what, *(f"{value:.2f}" for value in values), verdict))
    yield table(("goal", "at most", "reached", CONSTANT, ""), rows) + "\n"


def _tables(
    every: Sequence[Policy],
    found: Mapping[str, Mapping[str, Score]],
    tasks: Sequence[Outcomes],
) -> Iterator[str]:
    yield "## Policies\n"
    yield (
        "Mean and median of log regret; `worst` of it; `AdamW`: the most that a task is behind tuned AdamW, as a log.\n"
    )
    head = ("policy", "cost", *(f"{half.replace('_', ' ')}: {what}" for half in HALVES for what in
            ("mean", "median", "worst", "AdamW")))  # fmt: skip
    yield (
        table(head, [_policy_row(policy.name, found[policy.name], tasks) for policy in every])
        + "\n"
    )
    yield from _designs(tasks)
    yield "## Each method at its best rate, by task\n"
    yield "Held-out loss and rate; the lowest loss in bold.\n"
    yield table(("task", "half", *SEARCHES), [_task_row(task) for task in tasks]) + "\n"
    yield "## What the first part of a run tells\n"
    yield (
        "Whoever leads at this share of the run: how often that one leads at the end, and the mean log regret of going "
        "on with it alone. `rates`: among the rates of one method; `methods`: among methods, each at its best rate.\n"
    )
    yield table(_PREFIX_HEAD, [_prefix_row(tasks, share) for share in PREFIXES]) + "\n"


def _policy_row(
    name: str, found: Mapping[str, Score], tasks: Sequence[Outcomes]
) -> tuple[str, ...]:
    cells = [name, f"{summary(found, tasks, None).cost:.2f}"]
    for half in HALVES:
        own = summary(found, tasks, half)
        cells += [f"{value:.3f}" for value in (own.mean, own.median)]
        cells += [f"{own.worst:.2f}", f"{own.worst_behind_adamw:+.2f}"]
    return tuple(cells)


def _designs(tasks: Sequence[Outcomes]) -> Iterator[str]:
    yield "## Designs of a race, on the dev half\n"
    yield (
        "`2 rates`: the prior's and the next higher one; `3 rates`: the next lower one too. More are tried further out "
        "while the best is at the edge. `lowered`: what the early rungs chose goes on at half a decade below it. "
        "Methods: the recommended one, AdamW, then the prior's. *Any method*: each method racing alone, against its "
        "own best rate; `lowest`: how often that was found.\n"
    )
    own = [task for task in tasks if task.half == "dev"]
    head = ("design", "cost", "mean", "median", "worst", "any method: mean", "lowest", "cases")
    rows = []
    for name, design in COMPARED.items():
        found = summary(scores(raced_policy(name, design), tasks), tasks, "dev")
        values = (found.mean, found.median, found.worst)
        alone = ["", "", ""]
        if design.methods == 1:
            told = rates_raced(own, rate_of, design)
            alone = [f"{told.regret:.3f}", f"{told.right:.0%}", str(told.cases)]
        cells = [f"{value:.3f}" for value in values]
        rows.append((name, f"{found.cost:.2f}", *cells, *alone))
    yield table(head, rows) + "\n"


def _task_row(task: Outcomes) -> tuple[str, ...]:
    cells = [task.task, TASKS[task.task].half.replace("_", " ")]
    for method in SEARCHES:
        run = task.tuned(method)
        text = "-" if run is None else f"{task.loss(run):.4g} @ {run[1]:g}"
        is_best = run is not None and task.loss(run) == task.best
        cells.append(f"**{text}**" if is_best else text)
    return tuple(cells)


_PREFIX_HEAD = ("share", *(f"{half.replace('_', ' ')}: {what}" for half in HALVES for what in
    ("rates, right", "regret", "methods, right", "regret")))  # fmt: skip


def _prefix_row(tasks: Sequence[Outcomes], share: float) -> tuple[str, ...]:
    cells = [f"{share:.0%}"]
    for half in HALVES:
        own = [task for task in tasks if task.half == half]
        cells += _told(rates_told(own, share)) + _told(methods_told(own, share))
    return tuple(cells)


def _told(told: Told) -> list[str]:
    return [f"{told.right:.0%}", f"{told.regret:.2f}"]
