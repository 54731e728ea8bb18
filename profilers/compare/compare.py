"""Two profiles side by side: what was compared, and what changed by more than the batches themselves vary.

Two models, two moments in training or two settings: whichever it is, `differences` says what is not the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from subopt.optimizers import matrix_shape

from ..record.base import Record
from ..record.comparison import Change, Comparison, Difference, LayerChange, MethodChange, Trend
from ..record.profile import Layer, Memory, MethodCost, Profile, Ratio, Spread
from .match_layers import Pair, match_layers

# Fields that name the same thing differently on every run, or say where and not what.
_NOT_COMPARED = frozenset({"free_bytes", "used_bytes", "other_processes", "line", "file"})
_BASES = ("raw", "one_sided", "two_sided", "covariance")


def compare(a: Profile, b: Profile) -> Comparison:
    """Put two profiles side by side.

    A difference counts as beyond the spread where [min, max] over the batches of one does not touch that of the other.
    With few batches that errs to both sides: a range over K batches is narrower than the quantity's true variation.
    """
    matching = match_layers(_measured(a), _measured(b))
    uses_unbiased = a.settings.batches != b.settings.batches
    layers = tuple(_layer_change(pair, uses_unbiased) for pair in matching.pairs)
    rows_a, rows_b = ({cost.method: cost for cost in profile.methods} for profile in (a, b))
    return Comparison(
        differences=tuple(dict.fromkeys(_differences(a, b))),  # the device is named twice
        layers=layers,
        unmatched_a=matching.only_a,
        unmatched_b=matching.only_b,
        typical=dict(_typical(a, b)),
        trends=dict(_trends(layers)),
        methods=tuple(
            _method_change(row, rows_b[name]) for name, row in rows_a.items() if name in rows_b
        ),
        only_a=tuple(name for name in rows_a if name not in rows_b),
        only_b=tuple(name for name in rows_b if name not in rows_a),
        memory=dict(_memory_changes(a.memory, b.memory)),
        uses_unbiased=uses_unbiased,
    )


def _measured(profile: Profile) -> list[Layer]:
    return [layer for layer in profile.layers if layer.spectrum is not None]


def _differences(a: Profile, b: Profile) -> Iterator[Difference]:
    for part in ("target", "settings", "environment"):
        left, right = (dict(_fields(getattr(profile, part))) for profile in (a, b))
        for what in dict.fromkeys([*left, *right]):
            if left.get(what) != right.get(what):
                yield Difference(what, _text(left.get(what)), _text(right.get(what)))


def _fields(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field by its name, those of nested records and mappings with the outer name before them."""
    for name, value in record:
        if name in _NOT_COMPARED:
            continue
        if isinstance(value, Record):
            yield from _fields(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            yield from ((f"{prefix}{name}.{key}", item) for key, item in value.items())
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _typical(a: Profile, b: Profile) -> Iterator[tuple[str, Change]]:
    """Yield medians over all measured layers of each profile."""
    readings = (("effective_rank", _effective_rank), ("rank_95", _rank_95))
    for name, spread_of in readings:
        shares = [
            [
                spread.mean / matrix_shape(layer.shape)[0]
                for layer in _measured(profile)
                if (spread := spread_of(layer)) is not None
            ]
            for profile in (a, b)
        ]
        if all(shares):
            yield name, Change(median(shares[0]), median(shares[1]))


def _trends(layers: Sequence[LayerChange]) -> Iterator[tuple[str, Trend]]:
    found: dict[str, list[Change | None]] = {}
    for layer in layers:
        for name in ("effective_rank", "rank_95", "period", "signal"):
            found.setdefault(name, []).append(getattr(layer, name))
        for basis, change in layer.diagonality.items():
            found.setdefault(f"diagonality.{basis}", []).append(change)
    for name, changes in found.items():
        known = [change for change in changes if change is not None]
        if known:
            yield name, _trend(known)


def _trend(changes: Sequence[Change]) -> Trend:
    has_spread = any(change.beyond_spread is not None for change in changes)
    clear = [change for change in changes if change.beyond_spread] if has_spread else changes
    return Trend(
        layers=len(changes),
        a=median(change.a for change in changes),
        b=median(change.b for change in changes),
        up=sum(change.difference > 0 for change in clear),
        down=sum(change.difference < 0 for change in clear),
        has_spread=has_spread,
    )


def _layer_change(pair: Pair, uses_unbiased: bool) -> LayerChange:
    a, b = pair.a, pair.b
    return LayerChange(
        a=a.name,
        b=b.name,
        matched_by=pair.by,
        effective_rank=_spread_change(a, b, _effective_rank(a), _effective_rank(b)),
        rank_95=_spread_change(a, b, _rank_95(a), _rank_95(b)),
        diagonality=dict(_diagonality_changes(a, b, "unbiased" if uses_unbiased else "ratio")),
        period=_known(_period(a), _period(b)),
        signal=_known(_signal(a), _signal(b)),
    )


def _effective_rank(layer: Layer) -> Spread | None:
    return layer.spectrum.effective_rank if layer.spectrum else None


def _rank_95(layer: Layer) -> Spread | None:
    return layer.spectrum.rank_at_energy.get("0.95") if layer.spectrum else None


def _spread_change(a: Layer, b: Layer, left: Spread | None, right: Spread | None) -> Change | None:
    """Return two numbers of directions as shares of their layers' short sides, with what their spreads say."""
    if left is None or right is None:
        return None
    m_a, m_b = (matrix_shape(layer.shape)[0] for layer in (a, b))
    apart = left.max / m_a < right.min / m_b or right.max / m_b < left.min / m_a
    is_known = _has_spread(a) and _has_spread(b)
    return Change(left.mean / m_a, right.mean / m_b, beyond_spread=apart if is_known else None)


def _has_spread(layer: Layer) -> bool:
    """Whether more than one batch was looked at: over two, the effective rank is never exactly the same."""
    return layer.spectrum is not None and (
        layer.spectrum.effective_rank.min < layer.spectrum.effective_rank.max
    )


def _diagonality_changes(a: Layer, b: Layer, estimate: str) -> Iterator[tuple[str, Change]]:
    for basis in _BASES:
        change = _known(_judged(a, basis, estimate), _judged(b, basis, estimate))
        if change is not None:
            yield basis, change


def _judged(layer: Layer, basis: str, estimate: str) -> float | None:
    """Return the diagonality in a basis, unless it was judged on the gradients it was fitted to."""
    value: Ratio | None = getattr(layer.diagonality, basis) if layer.diagonality else None
    return None if value is None or value.in_sample else getattr(value, estimate)


def _period(layer: Layer) -> float | None:
    life = (layer.subspace or {}).get("gradient")
    if life is None or not life.lag:
        return None
    return float(max(life.lag) if life.period is None else life.period)


def _signal(layer: Layer) -> float | None:
    return layer.noise.signal_share if layer.noise else None


def _known(a: float | None, b: float | None) -> Change | None:
    return None if a is None or b is None else Change(a, b)


def _method_change(a: MethodCost, b: MethodCost) -> MethodChange:
    peaks = [cost.peak.bytes if cost.peak else None for cost in (a, b)]
    return MethodChange(
        method=a.method,
        state_bytes=Change(a.state_bytes, b.state_bytes),
        peak_bytes=_known(*peaks),
        step_ms=_known(a.step_ms, b.step_ms),
    )


def _memory_changes(a: Memory, b: Memory) -> Iterator[tuple[str, Change]]:
    for name in Memory.model_fields:
        if name.endswith("_bytes"):
            change = _known(getattr(a, name), getattr(b, name))
            if change is not None:
                yield name, change
