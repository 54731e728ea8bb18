"""What two profiles come to beside each other, in a few sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import count, percent, plural
from ..units import format_bytes, format_ms

if TYPE_CHECKING:
    from subopt.profilers.record.comparison import Comparison, Trend

_BASES = {
    "raw": "as is",
    "one_sided": "rotated on one side",
    "two_sided": "on both",
    "covariance": "by summed gradients",
}


def comparison_summary(found: Comparison) -> list[str]:
    """Return sentences on spectrum, diagonality, subspaces, and costs; one without numbers is left out."""
    clauses = [_spectrum(found), _diagonality(found), _subspaces(found), _costs(found)]
    return [clause for clause in clauses if clause] or [
        "The profiles have nothing in common that can be compared."
    ]


def _spectrum(found: Comparison) -> str | None:
    trend = found.trends.get("effective_rank")
    if trend is None:
        return _unmatched_spectrum(found)
    text = (
        f"Spectrum: {_direction(trend)}; the typical layer's effective rank went from {percent(trend.a)} to "
        f"{percent(trend.b)} of its short side"
    )
    if needed := found.trends.get("rank_95"):
        text += f"; 95% of the energy takes {percent(needed.a)} of the directions in A, {percent(needed.b)} in B"
    return f"{text}."


def _unmatched_spectrum(found: Comparison) -> str | None:
    """Return both models' typical spectra, where no layer of one stands beside a layer of the other."""
    rank, needed = found.typical.get("effective_rank"), found.typical.get("rank_95")
    if rank is None or needed is None:
        return None
    return (
        f"Spectrum: no layer of A has a counterpart in B; the typical layer's effective rank is {percent(rank.a)} of "
        f"its short side in A, {percent(rank.b)} in B, and 95% of the energy takes {percent(needed.a)} and "
        f"{percent(needed.b)} of the directions."
    )


def _direction(trend: Trend) -> str:
    """Return what happened to the effective rank beyond the spread over the batches, and in how many layers."""
    whole = plural(trend.layers, "layer")
    if not trend.up and not trend.down:
        beyond = " beyond what the batches vary by" if trend.has_spread else ""
        return f"no change{beyond}, in all of {whole}"
    if not trend.has_spread:
        return f"lower in {trend.down} and higher in {trend.up} of {whole}, by chance or not: it is of one batch"
    parts = []
    if trend.down:
        parts.append(f"more low-rank in {trend.down}")
    if trend.up:
        parts.append(f"less in {trend.up}" if trend.down else f"less low-rank in {trend.up}")
    within = trend.layers - trend.up - trend.down
    rest = f" ({within} within that)" if within else ""
    return f"{' and '.join(parts)} of {whole}, beyond what the batches vary by{rest}"


def _diagonality(found: Comparison) -> str | None:
    parts = [
        f"{percent(trend.a)} to {percent(trend.b)} {words}"
        for basis, words in _BASES.items()
        if (trend := found.trends.get(f"diagonality.{basis}")) is not None
    ]
    if not parts:
        return None
    kind = "unbiased estimates, as the numbers of batches differ; " if found.uses_unbiased else ""
    return (
        f"Diagonality: what a diagonal method sees of the typical layer's second moment went from {', '.join(parts)} "
        f"({kind}no spread is known, so small differences may be chance)."
    )


def _subspaces(found: Comparison) -> str | None:
    parts = []
    period, signal = found.trends.get("period"), found.trends.get("signal")
    if period is not None:
        parts.append(
            f"a basis of the typical layer's gradient lasts {count(period.a)} steps in A, {count(period.b)} in B"
        )
    if signal is not None:
        shares = [percent(max(0.0, value)) for value in (signal.a, signal.b)]
        parts.append(
            f"{shares[0]} of a batch's gradient is common to all batches in A, {shares[1]} in B"
        )
    return f"Subspaces: {'; '.join(parts)}." if parts else None


def _costs(found: Comparison) -> str | None:
    adamw = next((method for method in found.methods if method.method == "adamw"), None)
    peak = found.memory.get("peak_bytes")
    parts = []
    if peak is not None:
        parts.append(f"peak {_both(format_bytes(int(peak.a)), format_bytes(int(peak.b)))}")
    if adamw is not None:
        state, step = adamw.state_bytes, adamw.step_ms
        parts.append(f"state {_both(format_bytes(int(state.a)), format_bytes(int(state.b)))}")
        if step is not None:
            parts.append(f"time of its step {_both(format_ms(step.a), format_ms(step.b))}")
    return f"Costs of plain AdamW: {', '.join(parts)}{_machines(found)}." if parts else None


def _both(a: str, b: str) -> str:
    return f"{a} in both" if a == b else f"{a} -> {b}"


def _machines(found: Comparison) -> str:
    """Return a word of caution where times were taken under different conditions."""
    conditions = {"device", "threads", "torch", "platform", "gpu.name"}
    changed = sorted(conditions & {item.what for item in found.differences})
    return f" (times do not compare: {' and '.join(changed)} differ)" if changed else ""
