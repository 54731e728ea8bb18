"""The passes on a batch of any size, from those of two sizes: every storage is affine in the number of examples."""

from __future__ import annotations

from dataclasses import dataclass

from .fake_passes import Moment, Passes
from .schema import BatchPoint


@dataclass(frozen=True)
class AffinePasses:
    """Two passes, storage by storage the same but for their sizes.

    Attributes:
        small: The passes on the smaller batch.
        large: Those on the larger one.
    """

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
        return Passes(size, moments, self.small.turn)


def affine(one: Passes, other: Passes) -> AffinePasses | None:
    """Return what two sizes say of all others, or None where other storages come and go in one than in the other."""
    small, large = sorted((one, other), key=lambda passes: passes.batch_size)
    if small.turn != large.turn or _kinds(small) != _kinds(large):
        return None
    return AffinePasses(small, large)


def _kinds(passes: Passes) -> list[tuple[int, str]]:
    return [(moment.sign, moment.category) for moment in passes.moments]


def batch_point(passes: Passes, *, recomputed: bool) -> BatchPoint:
    """Return the highest moments of both passes."""
    total = gradients = forward = 0
    backward = without = update = 0
    for index, moment in enumerate(passes.moments):
        if index == passes.turn:
            backward = without = total
        change = moment.sign * moment.bytes
        total += change
        if moment.category == "gradient":
            gradients += change
            if moment.sign > 0:
                update = max(update, total - gradients + moment.bytes)
        if index < passes.turn:
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
        kept_bytes=total - gradients,
    )
