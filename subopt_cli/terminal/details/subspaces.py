"""How long subspaces last: the typical layer by what the basis is of, then every layer for a gradient's own basis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from ...findings.common import measured_layers
from ...findings.subspaces import captured_after, longest_lag, sources, typical_lives
from ...text import DASH, count, percent, shape_text
from ..table import Columns, TerminalColumn, fitting_table, item_table, noted
from .layers import LAYER_ROWS, more_layers, short_name

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile, SubspaceLife

    from ...findings.subspaces import TypicalLife

SUBSPACE_LEGEND = {
    "own": "energy of a gradient in its own leading directions, the most that any basis of the rank asked for can "
    "hold; 'later': what a basis fitted that much earlier still holds of it, left alone or followed by online PCA; "
    "'chance': what a random basis holds",
    "lasts": "steps between refreshes that this supports; 'over': longer than the run; 'noise': gone after one step, "
    "so what the basis held was the noise of one batch",
    "signal": "share of one batch's gradient energy that all batches have in common; 'batches': how many to average "
    "for half",
}


def subspace_tables(profile: Profile) -> list[RenderableType]:
    """Return the typical layer by source, and every layer for the first source; nothing where nothing was followed."""
    layers = [layer for layer in measured_layers(profile) if layer.subspace or layer.noise]
    if not layers:
        return []
    lag = longest_lag(profile)
    by_layer = _by_layer(profile, layers, lag)
    if lag is None:
        return [by_layer]
    source = sources(profile)[0]
    basis = "one gradient" if source == "gradient" else f"the {source}"
    return [
        Text("the typical layer, by what the basis is of", style="italic"),
        _by_source(profile, lag),
        Text(f"layers, with a basis of {basis}", style="italic"),
        by_layer,
    ]


def _by_source(profile: Profile, lag: int) -> RenderableType:
    columns: Columns[TypicalLife] = (
        TerminalColumn("basis of", is_text=True, cell=lambda life: life.source),
        TerminalColumn("own", priority=2, cell=lambda life: percent(life.own)),
        TerminalColumn("1 step\nlater", priority=1, cell=lambda life: percent(life.after_one)),
        TerminalColumn(f"{lag} steps\nlater", cell=lambda life: percent(life.frozen)),
        TerminalColumn("followed\nby PCA", priority=1, cell=lambda life: percent(life.tracked)),
        TerminalColumn("chance", priority=2, cell=lambda life: percent(life.chance)),
        TerminalColumn("lasts\nsteps", cell=lambda life: _period(life, life.lag)),
    )
    return item_table(columns, typical_lives(profile))


def _period(life: TypicalLife | SubspaceLife, longest: int) -> str:
    """Return a supported period, such as `50`; `over 20` where it outlasts the run."""
    if life.is_noise:
        return "noise"
    return f"over {longest}" if life.period is None else f"{life.period}"


def _by_layer(profile: Profile, layers: list[Layer], lag: int | None) -> RenderableType:
    names = sources(profile)
    columns: Columns[Any] = (
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
    return noted(fitting_table(columns, rows), more_layers(layers))


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
    return DASH if life is None or not life.lag else _period(life, max(life.lag))
