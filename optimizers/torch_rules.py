"""Updates that torch.optim ships, run as they are: the baselines.

Such a rule takes the whole step itself, learning rate and weight decay included, on the parameter in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from .slots import Layout

State = Mapping[str, Tensor]
Options = Mapping[str, Any]


class TorchRule(Protocol):
    """A torch.optim update as a rule."""

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
    def vector(self) -> str:
        """The moments for tensors that it does not take; its own name if it takes every shape."""

    def layout(self, shape: Sequence[int], options: Options) -> Layout:
        """Return the state kept for a parameter of this shape."""

    def flops(self, shape: Sequence[int], options: Options) -> float:
        """Return its arithmetic per step."""

    def apply(
        self, parameter: Tensor, gradient: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take the t-th step with a finite gradient in the parameter's shape."""


TORCH_RULES: dict[str, TorchRule] = {}
