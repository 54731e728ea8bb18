"""Lines of a goal held against what was measured: computed from rows, never typed."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Verdict(NamedTuple):
    """One line of the goal.

    Attributes:
        line: What is asked, and where.
        wanted: The limit, in words.
        measured: The number that was found, in words.
        holds: Whether it is within; None where it was not measured.
    """

    line: str
    wanted: str
    measured: str
    holds: bool | None


def at_most(line: str, limit: float, value: float | None, unit: str = "x") -> Verdict:
    """The value must not be above the limit."""
    return _judged(line, f"at most {limit:g}{unit}", value, unit, lambda v: v <= limit)


def at_least(line: str, limit: float, value: float | None, unit: str = "x") -> Verdict:
    """The value must not be below the limit."""
    return _judged(line, f"at least {limit:g}{unit}", value, unit, lambda v: v >= limit)


def _judged(
    line: str, wanted: str, value: float | None, unit: str, holds: Callable[[float], bool]
) -> Verdict:
    if value is None:
        return Verdict(line, wanted, "–", None)
    return Verdict(line, wanted, f"{value:.4g}{unit}", holds(value))


def verdict_table(verdicts: Iterable[Verdict]) -> list[str]:
    """The lines as a Markdown table, and how many hold."""
    judged = list(verdicts)
    if not judged:
        return []
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = [[v.line, v.wanted, v.measured, words[v.holds]] for v in judged]
    held = sum(v.holds is True for v in judged)
    return [
        *table(("line of the goal", "wanted", "measured", "holds"), rows, left=2),
        f"{held} of {len(judged)} lines hold.",
        "",
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table, its first columns left aligned."""
    rule = [":---"] * left + ["---:"] * (len(header) - left)
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)] + [""]
