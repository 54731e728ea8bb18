"""A forward and backward pass of a fake model on a batch of any size, storage by storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from subopt.optimizers.storage_tracker import StorageTracker, Stored

from .simulated import (
    SimulatedModel,
    SimulationError,
    filed_gradients,
    followed,
    without_gradients,
)


class Moment(NamedTuple):
    """A storage coming (`sign` 1) or going (-1)."""

    sign: int
    category: str
    bytes: int


@dataclass(frozen=True)
class Passes:
    """Both passes on one batch.

    Attributes:
        batch_size: Its examples.
        moments: Every storage but the weights' as it came and went, the batch's first.
        turn: Index of the first moment of the backward pass.
    """

    batch_size: int
    moments: Sequence[Moment]
    turn: int


def passes_of(batch_size: int, events: Sequence[tuple[int, Stored]], turn: int) -> Passes:
    """Return passes from a tracker's events, of which the backward pass' begin at `turn`."""
    halves = [
        [
            Moment(sign, stored.category, stored.bytes)
            for sign, stored in half
            if stored.category != "parameter"
        ]
        for half in (events[:turn], events[turn:])
    ]
    return Passes(batch_size, halves[0] + halves[1], len(halves[0]))


def stretched(simulated: SimulatedModel, batch_size: int, size: int) -> Any:
    """Return the model's batch with another number of examples.

    Args:
        simulated: The model and its batch.
        batch_size: Examples of that batch; of each tensor the first dimension of this size is changed.
        size: Examples of the new one.

    Raises:
        SimulationError: No tensor has such a dimension.
    """
    is_changed = False

    def stretch(tensor: Tensor) -> Tensor:
        nonlocal is_changed
        shape = list(tensor.shape)
        if batch_size not in shape:
            return tensor
        is_changed = True
        shape[shape.index(batch_size)] = size
        return tensor.new_empty(shape)

    with simulated.mode:
        batch = tree_map_only(Tensor, stretch, simulated.batch)
    if not is_changed:
        raise SimulationError(f"no tensor of a batch has a dimension of {batch_size} examples")
    return batch


def follow_passes(simulated: SimulatedModel, batch: Any, batch_size: int) -> Passes:
    """Follow both passes on a fake batch, without gradients of earlier ones.

    Raises:
        SimulationError: The passes fail on such a batch.
    """
    model = simulated.model
    events: list[tuple[int, Stored]] = []
    tracker = StorageTracker()
    tracker.events = events
    hooks = filed_gradients(model, tracker)
    try:
        with followed(), without_gradients(model), simulated.mode:
            tracker.file([*model.parameters(), *model.buffers()], "parameter")
            tracker.file(tree_leaves(batch), "activation")
            with tracker:
                tracker.category = "activation"
                loss = simulated.followed_loss(batch)
                tracker.category, turn = "temporary", len(events)
                loss.backward()
            tracker.events = None
    finally:
        for hook in hooks:
            hook.remove()
    return passes_of(batch_size, events, turn)
