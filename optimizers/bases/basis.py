"""Bases: the coordinates in which a step is taken: what each keeps, when it moves, how to get there and back.

Legend: G m x n gradient, m <= n; P left basis (m x a), Q right basis (n x b); coordinates are a x b. A one-sided basis
has Q = I. Full rank: a = m (and b = n); rank r: a = r (and b = r).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..flops import Flops
from ..matrices import matrix_shape
from ..state.layout import Layout

State = Mapping[str, Tensor]
Options = Mapping[str, Any]


class Basis(Protocol):
    """What the composed optimizer needs of a basis."""

    @property
    def short_first(self) -> bool:
        """Whether matrices come to it transposed where they are tall."""

    def reaches(self, m: int, n: int, options: Options) -> bool:
        """Return whether it has a basis for either side of an m x n matrix."""

    def layout(self, m: int, n: int, options: Options) -> Layout:
        """Return the state it keeps for an m x n matrix."""

    def coordinates(self, m: int, n: int, options: Options) -> tuple[int, int]:
        """Return the shape in which moments live."""

    def flops(self, m: int, n: int, options: Options) -> Flops:
        """Return its work beyond the moments'."""

    def sees_gradient(self, state: State, t: int, options: Options) -> bool:
        """Return whether step t needs a finite G and not just P^T G; if not, `prepare` and `follow` do nothing."""

    def prepare(
        self, state: State, G: Tensor, usable: Tensor | bool, t: int, options: Options
    ) -> None:
        """Move the basis, if it is due, before G is projected. `usable`: G is finite and not zero."""

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return G in the basis' coordinates."""

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return a step in the parameter's coordinates."""

    def descend(self, W: Tensor, state: State, step: Tensor, rate: float, decay: float) -> None:
        """W <- decay W - rate lift(step) in place, without forming the lifted step."""

    def follow(
        self,
        state: State,
        G: Tensor,
        projected: Tensor,
        usable: Tensor | bool,
        t: int,
        options: Options,
    ) -> None:
        """Move the basis after its use, for the next step."""


def resolve_rank(rank: int | float | None, m: int) -> int | None:
    """Return a rank option as a number of directions of an m-row matrix: a share of m, a count, or None for full."""
    if rank is None:
        return None
    return min(rank, m) if isinstance(rank, int) else max(1, round(rank * m))


def is_refresh_due(step: int, period: int, early: bool) -> bool:
    """Return whether step 1, 2, ... refreshes: at 1, T + 1, 2 T + 1, ... and, if early, at 2, 4, 8, ... below T."""
    return (step - 1) % period == 0 or (early and step < period and step & (step - 1) == 0)


def refreshes_due(step: int, period: int, early: bool) -> int:
    """Return in how many of the steps 2, 3, ..., `step` `is_refresh_due` holds."""
    if step < 2:
        return 0
    powers_of_two = min(step, period - 1).bit_length() - 1 if early and period > 1 else 0
    return (step - 1) // period + powers_of_two


class Identity:
    """The parameter's own coordinates: nothing kept, nothing moved."""

    short_first = False

    def reaches(self, m: int, n: int, options: Options) -> bool:
        """Return False."""
        return False

    def layout(self, m: int, n: int, options: Options) -> Layout:
        """Return no state."""
        return {}

    def coordinates(self, m: int, n: int, options: Options) -> tuple[int, int]:
        """Return (m, n)."""
        return m, n

    def flops(self, m: int, n: int, options: Options) -> Flops:
        """Return no work."""
        return Flops(0, 0, 0)

    def sees_gradient(self, state: State, t: int, options: Options) -> bool:
        """Return True: the projection is the gradient."""
        return True

    def prepare(
        self, state: State, G: Tensor, usable: Tensor | bool, t: int, options: Options
    ) -> None:
        """Do nothing."""

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return G."""
        return G

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return the step."""
        return step

    def descend(self, W: Tensor, state: State, step: Tensor, rate: float, decay: float) -> None:
        """W <- decay W - rate step."""
        if decay != 1:
            W.mul_(decay)
        W.add_(step, alpha=-rate)

    def follow(
        self,
        state: State,
        G: Tensor,
        projected: Tensor,
        usable: Tensor | bool,
        t: int,
        options: Options,
    ) -> None:
        """Do nothing."""


def phase_of(parameter: Tensor, groups: Sequence[Mapping[str, Any]]) -> int:
    """Return floor(i T / N), the steps by which the i-th of N parameters refreshes after the first of them.

    Parameters count in the order of the groups, whichever is updated first, so that updates in the backward pass take
    the same turns. A period shorter than N steps is shared evenly: each step gets N / T of them, neighbours together.

    Args:
        parameter: A matrix of a group that staggers.
        groups: An optimizer's parameter groups. Matrices of those that stagger take turns, each within the period T of
            its own group.
    """
    turns = 0
    found = None
    for group in groups:
        for other in group["params"] if group["stagger"] else ():
            if other is parameter:
                found = turns, group["period"]
            turns += matrix_shape(other.shape)[0] >= 2
    if found is None:
        raise ValueError("the parameter is in no group that staggers")
    index, period = found
    return int(index * period // turns)
