"""What turns a gradient matrix into a step: the interface that moments and preconditioners share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from ..flops import Flops
from ..state.layout import Layout

State = Mapping[str, Tensor]
Hyper = Mapping[str, Any]
# Takes W, G, the state, t and the options; says whether it took the step on W itself, learning rate and all.
WholeStep = Callable[[Tensor, Tensor, State, int, Hyper], bool]


class StepRule(Protocol):
    """A rule for m x n matrices: what it keeps, and the step it makes of a gradient."""

    @property
    def name(self) -> str:
        """Its id in the option `moments`."""

    @property
    def betas(self) -> tuple[float, float]:
        """Its default decays."""

    @property
    def eps(self) -> float:
        """Its default smoothing constant."""

    @property
    def averages_gradient(self) -> bool:
        """Whether `exp_avg` is an average of gradients that a basis may be computed from."""

    @property
    def vector(self) -> str:
        """The moments for tensors that are not matrices."""

    @property
    def whole_step(self) -> WholeStep | None:
        """The whole step on weights in their own coordinates, where that is faster than `update`."""

    def layout(self, m: int, n: int, hyper: Hyper) -> Layout:
        """Return the state kept for an m x n matrix."""

    def flops(self, m: int, n: int, hyper: Hyper) -> Flops:
        """Return its arithmetic."""

    def update(self, G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
        """Take G, the t-th gradient, into the state and return the step, which must not be modified."""
