"""What fills the memory at the highest instant of training, by who made it, in a readable handful of entries."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from subopt.optimizers.state.storage_tracker import Stored

from ..record.base import Category
from ..record.profile import Content
from .module_scopes import module_of
from .phases import ModelPeaks, StepPeaks, by_category, training_phases
from .timeline import BATCH, Timeline

# One more may come for what a measurement holds beyond them.
_MOST_ENTRIES = 11
_REST = "everything else"
# What is there in every phase, or has one name wherever it comes from.
_WHOLE: dict[str, str] = {
    "parameter": "parameters",
    "gradient": "gradients",
    "state": "optimizer state",
}


class _Entry(NamedTuple):
    name: str
    category: Category


def contents(timeline: Timeline, model: ModelPeaks, step: StepPeaks) -> list[Content]:
    """Return what is alive at the highest instant of the phase that sets the peak, the largest first.

    At most 11 entries, which sum to the peak exactly; the smallest are one, "everything else". In a step nothing is
    told apart but the categories. In a pass, activations and temporaries go by the module that made them (see
    `module_scopes`), alike modules of a row of blocks together.
    """
    phases = training_phases(model, step)
    phase = max(phases, key=lambda name: phases[name].total())
    sizes: Counter[_Entry] = Counter()
    if phase in {"forward", "backward"}:
        for stored, count in timeline.highest(phase).items():
            sizes[_entry(stored, timeline)] += count * stored.bytes
        sizes[_Entry(_WHOLE["state"], "state")] += step.state_bytes
    else:
        names = {**_WHOLE, "activation": "the batch", "temporary": "temporaries of the update"}
        for category, size in by_category(phases[phase]).items():
            sizes[_Entry(names[category], category)] += size
    return _listed(sizes)


def _listed(sizes: Counter[_Entry]) -> list[Content]:
    ranked = [(entry, size) for entry, size in sizes.most_common() if size]
    shown, rest = ranked, []
    if len(ranked) > _MOST_ENTRIES:
        shown, rest = ranked[: _MOST_ENTRIES - 1], ranked[_MOST_ENTRIES - 1 :]
    found = [Content(name=e.name, category=e.category, bytes=size) for e, size in shown]
    if rest:
        total = sum(size for _, size in rest)
        found.append(Content(name=_REST, category=rest[0][0].category, bytes=total))
    return found


def _entry(stored: Stored, timeline: Timeline) -> _Entry:
    if stored.category in _WHOLE:
        return _Entry(_WHOLE[stored.category], stored.category)  # type: ignore[arg-type]
    category: Category = "activation" if stored.category == "activation" else "temporary"
    if stored.scope == BATCH:
        return _Entry("the batch", category)
    if timeline.is_logits(stored):
        is_gradient = category == "temporary"
        of = "gradients of the logits of" if is_gradient else "logits and their softmax, of"
        return _Entry(f"{of} {timeline.passes.head}", category)
    if timeline.is_new_gradient(stored):
        return _Entry("gradients being made", category)
    made = "activations of" if category == "activation" else "temporaries of the backward pass of"
    if timeline.passes.is_loss(stored.scope):
        return _Entry(f"{made} the loss", category)
    return _Entry(f"{made} {_place(module_of(stored.scope), timeline)}", category)


def _place(name: str, timeline: Timeline) -> str:
    """Return a module's name without what is below the parts of a block, blocks of a row under their range."""
    block = timeline.block_of(name)
    if block is not None:
        first, last = timeline.blocks[0], timeline.blocks[-1].rpartition(".")[2]
        below = name[len(timeline.blocks[block]) :].strip(".")
        part = below.partition(".")[0]
        return f"{first}-{last}" + (f".{part}" if part else "")
    return ".".join(name.split(".")[:2]) or "the model itself"
