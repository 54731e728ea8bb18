"""When a run fits bases, when it judges them, and which layers it can follow within a memory cap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from subopt.optimizers.bases.decompositions import FLOAT64_MAX_SIDE
from subopt.units import format_bytes

from ..gradients.spectrum import reported_ranks

SOURCES = ("gradient", "momentum", "covariance")
WIDEST = FLOAT64_MAX_SIDE  # short side, rows; a decomposition of a wider one takes minutes

_MOST_FITS = 4
_STEPS_PER_FIT = 10
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class SubspaceSchedule:
    """Steps are counted 0, 1, ... from the beginning of the run.

    Attributes:
        lags: 1, 2, 5, 10, 20, 50, ...: how many steps after its fit a basis is judged.
        starts: Steps whose gradient, momentum and covariance a basis is fitted to, ascending.
        stale: Steps whose gradient a full basis is kept of, by how many steps before the end of the run they are.
    """

    lags: tuple[int, ...]
    starts: tuple[int, ...]
    stale: Mapping[int, int]


def schedule(steps: int, most_fits: int = _MOST_FITS) -> SubspaceSchedule:
    """Spread fits over a run so that each of them can be judged at every lag.

    The longest lag is at most two thirds of the run. Fits come after its first fifth, where averages of one or two
    gradients would be no different from a gradient, and one for every ten steps.
    """
    stale = {steps - lag: lag for lag in (1, 10, 100) if lag <= steps}
    if steps < 2:
        return SubspaceSchedule((), (), stale)
    longest = max(1, (steps - 1) * 2 // 3)
    lags = tuple(lag for lag in _grid(longest) if lag <= longest)
    last = steps - 1 - lags[-1]
    first = min(steps // 5, last)
    fits = max(1, min(most_fits, steps // _STEPS_PER_FIT, last - first + 1))
    # From the last one backwards: a single fit is the one whose averages have seen most.
    gap = (last - first) / max(1, fits - 1)
    return SubspaceSchedule(
        lags, tuple(round(last - gap * i) for i in reversed(range(fits))), stale
    )


def _grid(longest: int) -> list[int]:
    decades = range(len(str(longest)))
    return [factor * 10**power for power in decades for factor in (1, 2, 5)]


@dataclass(frozen=True)
class Size:
    """What decides how much is held for a layer: its matrix is m x n, m <= n; `own_average`: momentum is kept here."""

    m: int
    n: int
    rank: int
    own_average: bool

    @property
    def width(self) -> int:
        """Columns of a held basis: enough for every rank that is reported."""
        return max(self.rank, *reported_ranks(self.m))

    def held_bytes(self, when: SubspaceSchedule) -> int:
        """Return the most that is held for this layer at any step of a run."""
        m, n, rank = self.m, self.n, self.rank
        # A basis for each source, and the followed one with Adam's two moments and two counters.
        fit = len(SOURCES) * m * self.width + 3 * m * rank + 2
        averages = m * m + (m * n if self.own_average else 0)
        numbers = [
            fit * sum(start <= step < start + when.lags[-1] for start in when.starts)
            + averages * (step <= max(when.starts, default=-1))
            + m * m * sum(kept <= step for kept in when.stale)
            for step in {0, *when.starts, *when.stale}
        ]
        return max(numbers) * _FLOAT32_BYTES


@dataclass(frozen=True)
class SubspacePlan:
    """What a run does: the layers it follows, when, and a line for what it leaves out."""

    sizes: Mapping[str, Size]
    when: SubspaceSchedule
    missing: tuple[str, ...]


def plan_within(sizes: Mapping[str, Size], steps: int, cap_bytes: int) -> SubspacePlan:
    """Take fewer fits, then only every second, third, ... layer of each shape, until all that is held fits in the cap.

    The cap is of what is held at once, in CPU memory.
    """
    narrow = {name: size for name, size in sizes.items() if size.m <= WIDEST}
    missing = []
    if len(narrow) < len(sizes):
        missing.append(
            f"subspace life of {len(sizes) - len(narrow)} of {len(sizes)} layers: "
            f"their short side is longer than {WIDEST}"
        )
    if steps < 2 and narrow:
        missing.append("subspace life: it takes at least 2 steps")

    for most_fits in range(_MOST_FITS, 0, -1):
        when = schedule(steps, most_fits)
        if _held_bytes(narrow, when) <= cap_bytes:
            return SubspacePlan(narrow, when, tuple(missing))
    kept = _thinned(narrow, when, cap_bytes)
    missing.append(
        f"subspace life of {len(narrow) - len(kept)} of {len(narrow)} layers: "
        f"following them all would hold more than {format_bytes(cap_bytes)}"
    )
    return SubspacePlan(kept, when, tuple(missing))


def _held_bytes(sizes: Mapping[str, Size], when: SubspaceSchedule) -> int:
    return sum(size.held_bytes(when) for size in sizes.values())


def _thinned(sizes: Mapping[str, Size], when: SubspaceSchedule, cap_bytes: int) -> dict[str, Size]:
    """Return every s-th layer of each shape for the smallest s that fits; none where not even one of each does."""
    by_shape: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, size in sizes.items():
        by_shape[size.m, size.n].append(name)
    for stride in range(2, max(map(len, by_shape.values())) + 1):
        names = {name for same in by_shape.values() for name in same[::stride]}
        kept = {name: size for name, size in sizes.items() if name in names}
        if _held_bytes(kept, when) <= cap_bytes:
            return kept
    return {}
