"""Bases: the coordinates in which a step is taken: what each keeps, when it moves, how to get there and back.

Legend: G m x n gradient, m <= n; P left basis (m x a), Q right basis (n x b); coordinates are a x b. A one-sided basis
has Q = I. Full rank: a = m (and b = n); rank r: a = r (and b = r).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..flops import Flops
from ..matrices import matrix_shape
from ..options import Options, PartOptions, basis_dtype_field, choice, number
from ..state.layout import Layout
from .precision import PRECISIONS

State = Mapping[str, Tensor]
Shape = tuple[int, int]


@dataclass(frozen=True)
class BasisOptions(PartOptions):
    """What every basis but the weights' own coordinates has."""

    scale: float = number(1.0, 0, 1e6, "factor on the lifted step")
    basis_dtype: str | None = basis_dtype_field()
    rotations: str = choice(
        "full",
        PRECISIONS,
        "precision of products with bases; reduced: TF32 on CUDA and bfloat16 on a CPU, off by some 3e-4 and 2e-3",
    )


class Basis:
    """Coordinates of m x n matrices. As it is, the weights' own: nothing is kept, nothing moves; others override."""

    # Whether matrices come to it transposed where they are tall, and whether coordinates are products with a basis.
    short_first: ClassVar[bool] = False
    is_rotated: ClassVar[bool] = False

    @property
    def options(self) -> type[PartOptions]:
        """Its options."""
        return PartOptions

    def reaches(self, shape: Shape, options: Options) -> bool:
        """Return whether it has coordinates for either side of a matrix."""
        return True

    def layout(self, shape: Shape, options: Options) -> Layout:
        """Return the state it keeps for a matrix."""
        return {}

    def coordinates(self, shape: Shape, options: Options) -> Shape:
        """Return the shape in which moments live."""
        return shape

    def flops(self, shape: Shape, options: Options) -> Flops:
        """Return its work beyond the moments'."""
        return Flops(0, 0, 0)

    def scale(self, options: Options) -> float:
        """Return the factor on the step."""
        return 1.0

    def precision(self, options: Options) -> str:
        """Return the precision of its products, as `rotations` takes it."""
        return "full"

    def sees_gradient(self, state: State, t: int, options: Options) -> bool:
        """Return whether step t needs a finite G and not just P^T G; if not, `prepare` and `follow` do nothing."""
        return True

    def prepare(
        self, state: State, G: Tensor, usable: Tensor | bool, t: int, options: Options
    ) -> None:
        """Move the basis, if it is due, before G is projected. `usable`: G is finite and not zero."""

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return G in the basis' coordinates."""
        return G

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return a step in the parameter's coordinates."""
        return step

    def descend(self, W: Tensor, state: State, step: Tensor, rate: float, decay: float) -> None:
        """W <- decay W - rate lift(step) in place, without forming the lifted step."""
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
        """Move the basis after its use, for the next step."""


class OutOfReach(Basis):
    """The own coordinates of a parameter that another basis does not reach; its step is scaled as if it did."""

    def scale(self, options: Options) -> float:
        """Return the option."""
        scale: float = options["scale"]
        return scale


class Rotated(OutOfReach):
    """Coordinates P^T G, or P^T G Q, with the options that all such bases share."""

    short_first = True
    is_rotated = True

    def precision(self, options: Options) -> str:
        """Return the option."""
        precision: str = options["rotations"]
        return precision

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return P^T G, or P^T G Q."""
        projected = state["basis_left"].to(G.dtype).mT @ G
        return projected @ state["basis_right"].to(G.dtype) if "basis_right" in state else projected

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return P N, or P N Q^T."""
        lifted = state["basis_left"].to(step.dtype) @ step
        if "basis_right" in state:
            return lifted @ state["basis_right"].to(step.dtype).mT
        return lifted


IDENTITY = Basis()
OUT_OF_REACH = OutOfReach()


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


def moment_step(state: State, t: int) -> int:
    """Return t as the moments count it, from their last reset; 0 at a step that only fits the first basis."""
    return t - int(state["restart"]) if "restart" in state else t


def phase_of(parameter: Tensor, groups: Sequence[Mapping[str, Any]]) -> int:
    """Return floor(i T / N), the steps by which the i-th of N parameters refreshes after the first of them.

    Parameters count in the order of the groups, whichever is updated first, so that updates in the backward pass take
    the same places. A period shorter than N steps is shared evenly: each step gets N / T of them, neighbours together.

    Args:
        parameter: A matrix of a group that staggers.
        groups: An optimizer's parameter groups. Matrices of those that stagger are spread, each over the
            period T of its own group.
    """
    count = 0
    found = None
    for group in groups:
        for other in group["params"] if group.get("stagger") else ():
            if other is parameter:
                found = count, group["period"]
            count += matrix_shape(other.shape)[0] >= 2
    if found is None:
        raise ValueError("the parameter is in no group that staggers")
    index, period = found
    return int(index * period // count)
