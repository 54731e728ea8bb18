"""How long subspaces last: the typical layer by what the basis is of, then every layer for a gradient's own basis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..findings.common import measured_layers
from ..findings.subspaces import captured_after, longest_lag, sources, typical_lives
from ..text import DASH, count, percent, shape_text
from .layers import LAYER_ROWS, more_layers, short_name
from .table import TerminalColumn, fitting_table

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile, SubspaceLife

    from ..findings.subspaces import TypicalLife

SUBSPACE_LEGEND = (
    (
        "own",
        "energy of a gradient in its own leading directions, the most that any basis of the rank asked for can hold; "
        "'later': what a basis fitted that much earlier still holds of it, left alone or followed by online PCA; "
        "'chance': what a random basis holds",
    ),
    (
        "lasts",
        "steps between refreshes that this supports; 'over': longer than the run; 'noise': gone after one step, "
        "so what the basis held was the noise of one batch",
    ),
    (
        "signal",
        "share of one batch's gradient energy that all batches have in common; 'batches': how many to average for half",
    ),
)


def subspace_tables(profile: Profile) -> list[RenderableType]:
    """Return the typical layer by source, and every layer for the first source; nothing where nothing was followed."""
    layers = [layer for layer in measured_layers(profile) if layer.subspace or layer.noise]
    if not layers:
        return []
    lag = longest_lag(profile)
    parts: list[RenderableType] = []
    if lag is not None:
        parts += [
            Text("the typical layer, by what the basis is of", style="italic"),
            _by_source(profile, lag),
        ]
        parts.append(
            Text(f"layers, with a basis of {_article(sources(profile)[0])}", style="italic")
        )
    parts.append(_by_layer(profile, layers, lag))
    return parts


def _article(source: str) -> str:
    return "one gradient" if source == "gradient" else f"the {source}"


def _by_source(profile: Profile, lag: int) -> RenderableType:
    columns = (
        TerminalColumn("basis of", is_text=True),
        TerminalColumn("own", priority=2),
        TerminalColumn("1 step\nlater", priority=1),
        TerminalColumn(f"{lag} steps\nlater"),
        TerminalColumn("followed\nby PCA", priority=1),
        TerminalColumn("chance", priority=2),
        TerminalColumn("lasts\nsteps"),
    )
    return fitting_table(columns, [_source_row(life) for life in typical_lives(profile)])


def _source_row(life: TypicalLife) -> list[str]:
    return [
        life.source,
        percent(life.own),
        percent(life.after_one),
        percent(life.frozen),
        percent(life.tracked),
        percent(life.chance),
        "noise" if life.is_noise else period_text(life.period, life.lag),
    ]


def period_text(period: int | None, longest: int) -> str:
    """Return a supported period, such as `50` or, where it outlasts the run, `over 20`."""
    return f"over {longest}" if period is None else f"{period}"


def _by_layer(profile: Profile, layers: list[Layer], lag: int | None) -> RenderableType:
    names = sources(profile)
    columns = (
        TerminalColumn("layer", is_text=True),
        TerminalColumn("shape", priority=7),
        TerminalColumn("own", priority=3),
        TerminalColumn("1 step\nlater", priority=1),
        TerminalColumn(f"{lag} steps\nlater"),
        TerminalColumn("followed\nby PCA", priority=2),
        TerminalColumn("chance", priority=4),
        TerminalColumn("lasts\nsteps"),
        *(TerminalColumn(f"{name}\nlasts", priority=6) for name in names[1:]),
        TerminalColumn("signal", priority=3),
        TerminalColumn("batches", priority=5),
    )
    rows = [_layer_row(layer, names, lag) for layer in layers[:LAYER_ROWS]]
    more = more_layers(layers)
    return Group(fitting_table(columns, rows), *([Text(more, style="dim")] if more else []))


def _layer_row(layer: Layer, names: list[str], lag: int | None) -> list[str]:
    lives = [(layer.subspace or {}).get(name) for name in names]
    first = lives[0] if lives else None
    noise = layer.noise
    needed = noise.batches_needed if noise else None
    return [
        short_name(layer),
        shape_text(layer.shape),
        *_held(first, lag),
        *(_lasts(life) for life in lives or [None]),
        percent(max(0.0, noise.signal_share)) if noise else DASH,
        DASH if needed is None else f"{needed:.1f}" if needed < 9.95 else count(needed),
    ]


def _held(life: SubspaceLife | None, lag: int | None) -> list[str]:
    if life is None or lag is None:
        return [DASH] * 5
    return [
        percent(life.own),
        percent(captured_after(life, 1)),
        percent(captured_after(life, lag)),
        percent(captured_after(life, lag, tracked=True)),
        percent(life.chance),
    ]


def _lasts(life: SubspaceLife | None) -> str:
    if life is None or not life.lag:
        return DASH
    return "noise" if life.is_noise else period_text(life.period, max(life.lag))
