"""Two profiles side by side: sentences first, then the layers that changed most, then what the methods cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf, log
from typing import TYPE_CHECKING

from rich.console import RenderableType

from ..findings.comparison import comparison_summary
from ..text import DASH, facts, numbered, percent, plural, section, shorten
from ..units import format_bytes, format_ms
from .table import Columns, TerminalColumn, item_table, noted

if TYPE_CHECKING:
    from subopt.profilers.record.comparison import Change, Comparison, LayerChange, MethodChange

ROWS = 12
LONGEST_VALUE = 40  # characters of a setting or a path that are shown
# Relative differences up to which a cost counts as the same: bytes are exact but for the allocator's rounding, while
# medians of a step's time differ by a quarter between two runs on a machine that does something else as well.
SAME_BYTES = 0.01
SAME_TIME = 0.25

_LEGEND = {
    "spread": "effective rank of a layer's gradient over its short side, in A and in B",
    "clear": "whether the ranges over the batches, least to greatest, do not touch: 'no' may be chance alone; the "
    "other columns have no such range",
    "diagonal": "share of the second moment that a method like Adam sees, as is and rotated on one side",
    "lasts": "steps between refreshes that a basis of one gradient supports, at least",
    "signal": "share of one batch's gradient energy that all batches have in common",
}


def comparison_report(found: Comparison, name_a: str, name_b: str) -> list[RenderableType]:
    """Return the sections of the comparison, in reading order."""
    parts = [
        section("What is compared", _subjects(found, name_a, name_b)),
        section("In short, from A to B", numbered(comparison_summary(found))),
    ]
    if found.layers:
        parts.append(section("Layers that changed most", _layer_table(found.layers)))
    changed = [method for method in found.methods if _costs_differ(method)]
    if changed:
        parts.append(section("Methods that cost something else", _method_table(changed, found)))
    if found.layers:
        parts.append(section("How to read this", facts(_LEGEND.items())))
    return parts


def _subjects(found: Comparison, name_a: str, name_b: str) -> RenderableType:
    pairs = [("A", name_a), ("B", name_b)]
    pairs += [(item.what, f"{_value(item.a)} | {_value(item.b)}") for item in found.differences]
    if not found.differences:
        pairs.append((
            "differ",
            "in nothing that was asked for: same target, settings and environment",
        ))
    return facts([*pairs, ("layers", _matching(found))])


def _value(text: str) -> str:
    return shorten(text, LONGEST_VALUE) or DASH


def _matching(found: Comparison) -> str:
    by_shape = sum(layer.matched_by == "shape" for layer in found.layers)
    text = f"{len(found.layers)} side by side"
    if by_shape:
        text += f", {by_shape} of them by shape and kind in their order, as their names differ"
    for label, names in (("A", found.unmatched_a), ("B", found.unmatched_b)):
        if names:
            text += f"; {len(names)} only in {label}"
    return text


def _layer_table(layers: Sequence[LayerChange]) -> RenderableType:
    columns: Columns[LayerChange] = (
        TerminalColumn("layer", is_text=True, cell=_names),
        TerminalColumn("spread", cell=lambda layer: _shares(layer.effective_rank)),
        TerminalColumn("clear", priority=1, is_text=True, cell=_is_clear),
        TerminalColumn("95%\nin", priority=2, cell=lambda layer: _shares(layer.rank_95)),
        TerminalColumn("diagonal\nas is", priority=3, cell=lambda layer: _diagonal(layer, "raw")),
        TerminalColumn("one\nside", priority=4, cell=lambda layer: _diagonal(layer, "one_sided")),
        TerminalColumn("lasts\nsteps", priority=5, cell=_lasts),
        TerminalColumn("signal", priority=6, cell=lambda layer: _shares(layer.signal)),
    )
    ordered = sorted(layers, key=_size, reverse=True)
    hidden = len(layers) - ROWS
    more = f"and {plural(hidden, 'layer')} that changed less" if hidden > 0 else None
    return noted(item_table(columns, ordered[:ROWS]), more)


def _size(layer: LayerChange) -> tuple[bool, float]:
    """Return the key to sort by: clear changes first, then by how many times larger or smaller the spread became."""
    change = layer.effective_rank
    if change is None:
        return False, 0.0
    ratio = change.ratio or 0.0
    return bool(change.beyond_spread), abs(log(ratio)) if ratio > 0 else inf


def _names(layer: LayerChange) -> str:
    names = dict.fromkeys(name.removesuffix(".weight") for name in (layer.a, layer.b))
    return " | ".join(names)


def _is_clear(layer: LayerChange) -> str:
    is_clear = layer.effective_rank.beyond_spread if layer.effective_rank else None
    return DASH if is_clear is None else "yes" if is_clear else "no"


def _diagonal(layer: LayerChange, basis: str) -> str:
    return _shares(layer.diagonality.get(basis))


def _lasts(layer: LayerChange) -> str:
    return _values(layer.period, lambda steps: f"{steps:.0f}")


def _shares(change: Change | None) -> str:
    """Return both values, such as `12% -> 30%`."""
    return _values(change, lambda share: percent(max(0.0, share)))


def _costs_differ(method: MethodChange) -> bool:
    return _bytes_change(method) > SAME_BYTES or _relative(method.step_ms) > SAME_TIME


def _bytes_change(method: MethodChange) -> float:
    return max(_relative(method.state_bytes), _relative(method.peak_bytes))


def _relative(change: Change | None) -> float:
    """Return the size of a relative difference; 0 where it is unknown."""
    return abs(change.ratio - 1) if change is not None and change.ratio is not None else 0.0


def _method_table(methods: Sequence[MethodChange], found: Comparison) -> RenderableType:
    columns: Columns[MethodChange] = (
        TerminalColumn("method", is_text=True, cell=lambda method: method.method),
        TerminalColumn("state", 3, cell=lambda method: _values(method.state_bytes, _bytes_text)),
        TerminalColumn("state\nB/A", cell=lambda method: _ratio(method.state_bytes)),
        TerminalColumn("peak", 3, cell=lambda method: _values(method.peak_bytes, _bytes_text)),
        TerminalColumn("peak\nB/A", cell=lambda method: _ratio(method.peak_bytes)),
        TerminalColumn("time a step", 4, cell=lambda method: _values(method.step_ms, format_ms)),
        TerminalColumn("time\nB/A", priority=2, cell=lambda method: _ratio(method.step_ms)),
    )
    ordered = sorted(methods, key=_bytes_change, reverse=True)
    return noted(item_table(columns, ordered[:ROWS]), *_method_notes(ordered, found))


def _values(change: Change | None, text_of: Callable[[float], str]) -> str:
    return DASH if change is None else f"{text_of(change.a)} -> {text_of(change.b)}"


def _ratio(change: Change | None) -> str:
    """Return the second value as a multiple of the first."""
    return DASH if change is None or change.ratio is None else f"{change.ratio:.3g}"


def _bytes_text(value: float) -> str:
    return format_bytes(int(value))


def _method_notes(methods: Sequence[MethodChange], found: Comparison) -> Iterator[str]:
    if len(methods) > ROWS:
        yield f"and {len(methods) - ROWS} more that changed less"
    for label, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            yield f"only in {label}: {', '.join(names)}"
