"""Turn the exhaustive runs and the advice into the report; computes means and differences, runs nothing."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from render.tiny_llama import table

Row = dict[str, Any]
BASELINE = "adamw"


@dataclass(frozen=True)
class MethodResult:
    """One method on one problem, at its best learning rate."""

    method: str
    lr: float
    steps: int
    losses: tuple[float, ...]
    tried: int

    @property
    def mean(self) -> float:
        """Mean held-out loss over the seeds."""
        return statistics.fmean(self.losses)

    @property
    def spread(self) -> float | None:
        """Largest minus smallest of them; None with one seed."""
        return max(self.losses) - min(self.losses) if len(self.losses) > 1 else None


def method_results(rows: Sequence[Row], problem: str) -> list[MethodResult]:
    """Return every method of a problem that did not always diverge, lowest loss of the first seed first.

    The first seed alone decides the order: other seeds were only run for the best methods, and their mean beside
    single runs would mix two things.
    """
    found = []
    own = [row for row in rows if row["problem"] == problem]
    for method in dict.fromkeys(row["method"] for row in own):
        searched = [row for row in own if row["method"] == method and row["seed"] == 0]
        finite = [row for row in searched if row["held_out_loss"] is not None]
        if not finite:
            continue
        best = min(finite, key=lambda row: row["held_out_loss"])
        repeated = [
            row["held_out_loss"]
            for row in own
            if row["method"] == method
            and row["lr"] == best["lr"]
            and row["held_out_loss"] is not None
        ]
        found.append(
            MethodResult(method, best["lr"], best["steps"], tuple(repeated), len(searched))
        )
    return sorted(found, key=lambda standing: standing.losses[0])


def widest_spread(found: Sequence[MethodResult]) -> float:
    """Return the widest spread between seeds of one method: what a difference must exceed to be one."""
    return max((one.spread for one in found if one.spread is not None), default=math.nan)


def problem_section(name: str, title: str, rows: Sequence[Row]) -> str:
    """Return one problem's table of all methods."""
    found = method_results(rows, name)
    base = next(one for one in found if one.method == BASELINE)
    lines = [
        (
            f"`{one.method}`",
            f"{one.lr:g} of {one.tried}",
            str(one.steps),
            " / ".join(f"{loss:.4f}" for loss in one.losses),
            f"{one.losses[0] - base.losses[0]:+.4f}",
        )
        for one in found
    ]
    head = (
        "method",
        "best rate of tried",
        "steps",
        "held-out loss, seed 0 / 1 / ...",
        "minus AdamW's, seed 0",
    )
    return f"## {title}\n\n{table(head, lines)}\n\nWidest spread between seeds: {widest_spread(found):.4f}.\n"


def verdict_row(
    title: str, found: Sequence[MethodResult], kind: str, chosen: str
) -> tuple[str, ...]:
    """Return what choosing a method costs beside the best one."""
    by_method = {one.method: one for one in found}
    best, base = found[0], by_method[BASELINE]
    if chosen not in by_method:
        return (
            title,
            kind,
            f"`{chosen}`",
            "diverged",
            "",
            f"`{best.method}` {best.losses[0]:.4f}",
            "",
        )
    one = by_method[chosen]
    rank = list(by_method).index(chosen) + 1
    return (
        title,
        kind,
        f"`{chosen}`",
        f"{one.losses[0]:.4f}",
        f"{rank} of {len(found)}",
        f"`{best.method}` {best.losses[0]:.4f}",
        f"{one.losses[0] - best.losses[0]:.4f} (AdamW: {base.losses[0] - best.losses[0]:.4f})",
    )


def render(
    rows: Sequence[Row],
    titles: Mapping[str, str],
    advised: Mapping[str, Mapping[str, str]],
    notes: str,
) -> str:
    """Return the report.

    Args:
        rows: The runs.
        titles: Heading by problem.
        advised: By problem, the method chosen by kind of advice.
        notes: What went wrong and why, as Markdown.
    """
    verdicts = [
        verdict_row(titles[problem], method_results(rows, problem), kind, method)
        for problem, choices in advised.items()
        for kind, method in choices.items()
    ]
    head = ("example", "advice", "chosen", "its loss", "rank", "best of all", "behind the best")
    parts = [
        "# Is the advice right?\n",
        "Every method at its own best learning rate for equal time, and what the advice would have picked. Written by "
        "`benchmarks/bench_advice.py render` from the runs beside this file; how it was done is in that script.\n",
        "## What was chosen\n",
        table(head, verdicts) + "\n",
        notes,
        *(problem_section(problem, title, rows) for problem, title in titles.items()),
    ]
    return "\n".join(parts)
