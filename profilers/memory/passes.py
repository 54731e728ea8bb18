"""A forward and backward pass of a fake model on a batch of any size, storage by storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from subopt.optimizers.state.storage_tracker import StorageTracker, Stored

from ..record.profile import BatchPoint
from ..shape_classes import without_gradients
from .simulation import (
    SimulatedModel,
    SimulationError,
    filed_gradients,
    followed,
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
        backward_start: Index of the first moment of the backward pass.
    """

    batch_size: int
    moments: Sequence[Moment]
    backward_start: int


def passes_of(batch_size: int, events: Sequence[tuple[int, Stored]], backward_start: int) -> Passes:
    """Return passes from a tracker's events, of which the backward pass' begin at `turn`."""
    halves = [
        [
            Moment(sign, stored.category, stored.bytes)
            for sign, stored in half
            if stored.category != "parameter"
        ]
        for half in (events[:backward_start], events[backward_start:])
    ]
    return Passes(batch_size, halves[0] + halves[1], len(halves[0]))


def stretched(simulated: SimulatedModel, batch_size: int, size: int) -> Any:
    """Return the model's batch of `batch_size` examples with `size` of them.

    Of each tensor the first dimension of `batch_size` is changed.

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
    with followed(), hooks, without_gradients(model.parameters()), simulated.mode:
        tracker.file([*model.parameters(), *model.buffers()], "parameter")
        tracker.file(tree_leaves(batch), "activation")
        with tracker:
            tracker.category = "activation"
            loss = simulated.followed_loss(batch)
            tracker.category, backward_start = "temporary", len(events)
            loss.backward()
        tracker.events = None
    return passes_of(batch_size, events, backward_start)


@dataclass(frozen=True)
class AffinePasses:
    """The passes on two batches, storage by storage the same but for their sizes."""

    small: Passes
    large: Passes

    def at(self, size: int) -> Passes:
        """Return the passes on a batch of `size` examples."""
        reach = size - self.small.batch_size
        examples = self.large.batch_size - self.small.batch_size
        moments = [
            # Rounded up, where a size is not a whole number of bytes per example.
            Moment(
                one.sign, one.category, one.bytes - reach * (one.bytes - other.bytes) // examples
            )
            for one, other in zip(self.small.moments, self.large.moments, strict=True)
        ]
        return Passes(size, moments, self.small.backward_start)


def affine(one: Passes, other: Passes) -> AffinePasses | None:
    """Return what two sizes say of all others, or None where other storages come and go in one than in the other."""
    small, large = sorted((one, other), key=lambda passes: passes.batch_size)
    events = [[(moment.sign, moment.category) for moment in p.moments] for p in (small, large)]
    if small.backward_start != large.backward_start or events[0] != events[1]:
        return None
    return AffinePasses(small, large)


def batch_point(passes: Passes, *, recomputed: bool) -> BatchPoint:
    """Return the highest moments of both passes."""
    total = gradients = forward = 0
    backward = without = update = 0
    for index, moment in enumerate(passes.moments):
        if index == passes.backward_start:
            backward = without = total
        change = moment.sign * moment.bytes
        total += change
        if moment.category == "gradient":
            gradients += change
            if moment.sign > 0:
                update = max(update, total - gradients + moment.bytes)
        if index < passes.backward_start:
            forward = max(forward, total)
        else:
            backward, without = max(backward, total), max(without, total - gradients)
    return BatchPoint(
        batch_size=passes.batch_size,
        recomputed=recomputed,
        forward_bytes=forward,
        backward_bytes=backward,
        without_gradients_bytes=without,
        update_bytes=update,
        retained_bytes=total - gradients,
    )
