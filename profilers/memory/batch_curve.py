"""Memory of the two passes at other batch sizes than the profile's, followed under fake tensors.

What is alive at each moment is affine in the batch size, so two sizes say what all others take, and a third checks it.
The highest moment is convex: between two sizes of the result, the straight line between them is never too low. Where
the passes are not affine, as with a loss over all pairs of examples, a few sizes are followed one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from subopt.errors import SuboptError

from ..record.profile import BatchPoint
from ..target.activation_checkpointing import blocks_recomputed, repeated_blocks
from .passes import AffinePasses, Passes, affine, batch_point, follow_passes, passes_of, stretched
from .simulation import SimulatedModel, SimulationError

# The largest batch that is looked at, in examples and by what its forward pass takes.
LARGEST_BATCH = 2**16
LARGEST_BYTES = 256 * 2**30
# Two passes tell the others if those of a batch so many times the profile's are as they say, up to this share.
_CHECKED_AT = 4
_CHECKED_TO = 0.005
# The line between two sizes may be too high by this share of the memory with the weights; so many sizes are added.
_TOLERANCE = 0.005
_MOST_ADDED = 16
# Sizes that are followed one by one are so many times larger each.
_LADDER = 4

BatchOf = Callable[[int], Any]
Line = tuple[float, float]


def batch_curve(
    simulated: SimulatedModel, batch_size: int, batch_of: BatchOf, notes: list[str]
) -> list[BatchPoint]:
    """Return what the passes take at several batch sizes: plain, then with the repeated blocks recomputed.

    Args:
        simulated: The model after a forward and backward pass; it stays as it is.
        batch_size: Examples of the batch that it was followed on.
        batch_of: Makes a batch of another size; asked for small ones only, and only where the followed batch cannot be
            stretched.
        notes: Gets a line where only small sizes could be followed, or blocks cannot be recomputed.
    """
    own = passes_of(batch_size, simulated.timeline.events, simulated.timeline.backward_start)
    plain = _Curve(simulated, own)
    try:
        points = plain.points(is_checked=False)
    except SimulationError as error:
        points = plain.asked_for(batch_of)
        notes.append(
            f"memory of batches of more than {points[-1].batch_size}: "
            f"a batch made larger without the user's code fails with {error}"
        )
    if not repeated_blocks(simulated.model):
        return points
    try:
        with blocks_recomputed(simulated.model):
            own = follow_passes(simulated, simulated.batch, batch_size)
            again = _Curve(simulated, own, recomputed=True)
            return points + again.points(is_checked=plain.is_affine)
    except SimulationError as error:
        notes.append(f"memory with activation checkpointing: without data it fails with {error}")
        return points


class _Curve:
    """The passes of one model at one size after another.

    Attributes:
        is_affine: Whether a third size took what two others said.
    """

    def __init__(self, simulated: SimulatedModel, own: Passes, *, recomputed: bool = False) -> None:
        self.is_affine = False
        self._simulated, self._own, self._recomputed = simulated, own, recomputed

    def points(self, *, is_checked: bool) -> list[BatchPoint]:
        """Return points of several sizes, smallest first.

        Args:
            is_checked: Whether the passes are known to be affine.

        Raises:
            SimulationError: The batch cannot be stretched.
        """
        own = self._own
        # Not of a single example: where sums over the batch leave no copies, other storages come and go.
        others = [size for size in (2, 3) if size != own.batch_size]
        first = own if own.batch_size > 1 else self._follow(others.pop())
        fitted = affine(first, self._follow(others[0]))
        checked_at = _CHECKED_AT * max(first.batch_size, 2)
        self.is_affine = fitted is not None and (
            is_checked or self._is_as_followed(fitted, checked_at)
        )
        if fitted is None or not self.is_affine:
            return self._ladder()
        return self._thinned(fitted)

    def asked_for(self, batch_of: BatchOf) -> list[BatchPoint]:
        """Return the profile's own size, and a few around it for which the user's code makes a batch."""
        own = self._own
        found = {own.batch_size: self._point(own)}
        for share in (1 / _LADDER, 2 / _LADDER, _LADDER / 2, _LADDER):
            size = int(share * own.batch_size)
            if size < 1:
                continue
            try:
                batch = self._simulated.without_data(batch_of(size))
                found[size] = self._point(follow_passes(self._simulated, batch, size))
            except (SimulationError, SuboptError):
                continue  # not every size has data, or works
        return _sorted(found)

    def _follow(self, size: int) -> Passes:
        batch = stretched(self._simulated, self._own.batch_size, size)
        return follow_passes(self._simulated, batch, size)

    def _point(self, passes: Passes) -> BatchPoint:
        return batch_point(passes, recomputed=self._recomputed)

    def _is_as_followed(self, fitted: AffinePasses, size: int) -> bool:
        said, found = (self._point(passes) for passes in (fitted.at(size), self._follow(size)))
        return all(
            abs(one - other) <= _CHECKED_TO * other
            for one, other in zip(_marks(said), _marks(found), strict=True)
        )

    def _thinned(self, fitted: AffinePasses) -> list[BatchPoint]:
        """Return as few sizes as it takes for straight lines between them."""
        own = self._own.batch_size
        found = {own: self._point(self._own)}
        for size in (1, 2, _largest(fitted, own)):
            found.setdefault(size, self._point(fitted.at(size)))
        for size in _wanting(found, self._simulated.peaks.parameter_bytes):
            found[size] = self._point(fitted.at(size))
        return _sorted(found)

    def _ladder(self) -> list[BatchPoint]:
        """Return sizes that were each followed, up to the largest that is looked at or works."""
        found = {self._own.batch_size: self._point(self._own)}
        size = 2
        while size <= LARGEST_BATCH:
            try:
                found.setdefault(size, self._point(self._follow(size)))
            except SimulationError:
                break
            if found[size].forward_bytes > LARGEST_BYTES:
                break
            size *= _LADDER
        return _sorted(found)


def _largest(fitted: AffinePasses, own: int) -> int:
    """Return the largest batch whose forward pass stays below what is looked at."""
    low, high = (batch_point(p, recomputed=False) for p in (fitted.small, fitted.large))
    examples = high.batch_size - low.batch_size
    an_example = max((high.forward_bytes - low.forward_bytes) / examples, 1.0)
    room = (LARGEST_BYTES - high.forward_bytes) / an_example
    return max(min(LARGEST_BATCH, high.batch_size + int(room)), own)


def _sorted(found: dict[int, BatchPoint]) -> list[BatchPoint]:
    return [found[size] for size in sorted(found)]


def _marks(point: BatchPoint) -> list[int]:
    return [size for name, size in point if name.endswith("_bytes")]


def _wanting(found: dict[int, BatchPoint], weight_bytes: int) -> Iterator[int]:
    """Yield sizes to add, one at a time, as long as a line between two is, or may be, too high."""
    for _ in range(_MOST_ADDED):
        points = _sorted(found)
        sizes = [point.batch_size for point in points]
        gaps = [
            (gap, at)
            for heights in zip(*map(_marks, points), strict=True)
            for gap, height, at in _gaps(list(zip(sizes, heights, strict=True)))
            if gap > _TOLERANCE * (height + weight_bytes)
        ]
        if not gaps:
            return
        yield max(gaps)[1]


def _gaps(series: Sequence[tuple[int, int]]) -> Iterator[tuple[float, float, int]]:
    """Yield by how much each line between neighbours may be too high, its height there, and where that is.

    A convex function lies above the lines through the neighbours on either side, drawn on: where those two cross, it
    may be lowest. At the ends, where there is one side only, the middle is looked at.
    """
    for index, (left, right) in enumerate(pairwise(series)):
        if right[0] - left[0] < 2:
            continue
        before = _line(series[index - 1], left) if index else (0.0, float(left[1]))
        after = _line(right, series[index + 2]) if index + 2 < len(series) else None
        at = _crossing(before, after, left[0], right[0])
        slope, start = _line(left, right)
        lowest = max(line[0] * at + line[1] for line in (before, after) if line is not None)
        height = slope * at + start
        yield height - lowest, height, at


def _line(one: tuple[int, int], other: tuple[int, int]) -> Line:
    """Return slope and height at 0 of the line through two points."""
    slope = (other[1] - one[1]) / (other[0] - one[0])
    return slope, one[1] - slope * one[0]


def _crossing(before: Line, after: Line | None, low: int, high: int) -> int:
    """Return the whole number strictly between two sizes that is nearest to where two lines cross."""
    at = math.sqrt(low * high)
    if after is not None and after[0] > before[0]:
        at = (before[1] - after[1]) / (after[0] - before[0])
    return min(max(round(at), low + 1), high - 1)
