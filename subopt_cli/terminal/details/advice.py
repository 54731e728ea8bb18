"""The whole of an answer: budget, ranked table, what every row rests on, every remark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from ...findings.advice import words
from ...findings.answer import gain_cell, in_claimed_order, order_title, signed_share
from ...text import DASH, facts, numbered, plural, section
from ...units import format_bytes
from ..advice import shown_rows
from ..table import Columns, TerminalColumn, full_table, noted
from .explain import explanation

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice
    from subopt.recipes.evidence.predicted import PredictedGain
    from subopt.recipes.evidence.published import Published
    from subopt.recipes.evidence.raced import RacedGain
    from subopt.recipes.prior.gains import PriorGain
    from subopt.recipes.ranking.row import Row

_LEGEND = {
    "peak": "highest memory of a training step, with the phase that reaches it",
    "step": "time of a training step, against one with AdamW",
    "gain": "share of AdamW's loss measure (perplexity of a language model, else loss or wrong answers) that the "
    "method should take away in equal time, with its error, and the type of evidence that weighs most in it",
    "raced, prior, predicted, published": "what each type says by itself: a race on this model after equal time; "
    "comparisons of such runs, the prediction from its gradients, and the papers' nearest comparison, after equally "
    "many steps. -: it says nothing",
    "peak is": "measured, simulated, or from a formula",
}


# Rows of the table where not all are asked for.
SHOWN = 12


def advice_report(
    advice: Advice, profile: Profile, budget_line: str, *, everything: bool = False
) -> list[RenderableType]:
    """Return the sections of the whole answer, in reading order.

    Args:
        advice: The answer.
        profile: The profile it was given for.
        budget_line: How the budget was read.
        everything: Whether to show every method, not the best ones alone.
    """
    ordered = in_claimed_order(advice)
    shown = ordered if everything else shown_rows(advice, ordered, SHOWN)
    parts: list[RenderableType] = [
        section("Memory", Text(budget_line)),
        section(f"Methods, {order_title(advice)}", advice_table(shown, advice)),
        section(
            "What the rows rest on",
            *(explanation(row, profile, advice.traits) for row in shown),
        ),
        section("How to read this", facts(_LEGEND.items())),
    ]
    if advice.changes:
        changes = [words(change) for change in advice.changes]
        parts.append(
            section("What would make it fit, the smallest change first", numbered(changes))
        )
    parts.append(section("All remarks", numbered([words(reason) for reason in advice.reasons])))
    return parts


def advice_table(shown: Sequence[Row], advice: Advice) -> RenderableType:
    """Return rows of the ranked table, the chosen one marked, and how many are not among them."""
    columns: Columns[Row] = (
        TerminalColumn(
            "  method",
            is_text=True,
            cell=lambda row: f"{'>' if row is advice.chosen else ' '} {row.method}",
        ),
        TerminalColumn("fits", priority=1, is_text=True, cell=lambda row: row.fit.name.lower()),
        TerminalColumn("peak", cell=lambda row: format_bytes(row.peak.bytes)),
        TerminalColumn("set by", priority=8, is_text=True, cell=lambda row: row.peak.phase),
        TerminalColumn("headroom", 7, cell=lambda row: _signed_bytes(row.headroom_bytes)),
        TerminalColumn("step", priority=2, cell=_time),
        TerminalColumn("gain", priority=1, cell=gain_cell),
        TerminalColumn("decided\nby", priority=3, is_text=True, cell=_decided_by),
        TerminalColumn("peak is", priority=6, is_text=True, cell=lambda row: row.peak.source),
    )
    # A type of evidence that says nothing about any of them takes no room.
    said = [
        column for column in _EVIDENCE_COLUMNS if any(column.cell(row) != DASH for row in shown)
    ]
    styles = ["bold green" if row is advice.chosen else "" for row in shown]
    table = full_table([*columns, *said], shown, styles)
    hidden = len(advice.rows) - len(shown)
    return noted(
        table, f"... and {plural(hidden, 'method')} below these: --all" if hidden else None
    )


def _time(row: Row) -> str:
    return DASH if row.overhead is None else signed_share(row.overhead.share)


def _decided_by(row: Row) -> str:
    return row.expected.decided_by if row.expected else DASH


def _evidence_gain(evidence: RacedGain | PriorGain | PredictedGain | Published | None) -> str:
    return DASH if evidence is None or evidence.gain is None else signed_share(evidence.gain)


_EVIDENCE_COLUMNS: Columns[Row] = (
    TerminalColumn("raced", priority=4, cell=lambda row: _evidence_gain(row.raced)),
    TerminalColumn("prior", priority=4, cell=lambda row: _evidence_gain(row.prior)),
    TerminalColumn("predicted", priority=5, cell=lambda row: _evidence_gain(row.predicted)),
    TerminalColumn("published", priority=5, cell=lambda row: _evidence_gain(row.published)),
)


def _signed_bytes(count: int) -> str:
    return f"-{format_bytes(-count)}" if count < 0 else format_bytes(count)
