"""Layers that hold W = U S V^T as its three factors and never form W; the linear one.

Legend: W is m x n, a convolution's n being channels x kernel; U m x q, S q x q, V n x q: q (m + n) + q^2 numbers.
Source of the parametrisation: Hnatiuk et al. 2024, section 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bases.decompositions import two_sided_bases
from .factor_gradients import LinearBases

Pass = Literal["autograd", "bases", "core"]
FACTORS = ("U", "S", "V")


class LowRankLayer(nn.Module, ABC):
    """A layer whose weight is held as U S V^T.

    Attributes:
        U: m x q.
        S: q x q.
        V: n x q.
        bias: As the layer it replaces had it, or None.
        gradients: What a backward pass leaves in `grad`. "autograd": the partial derivatives by U, S and V, as of any
            module. "bases": G V in U's and G^T U in V's, the gradients of K = U S and L = V S^T. "core": U^T G V in
            S's, the bases being constants; the input is not kept for the backward pass then.

    A state dict of another rank loads: the factors take its size.
    """

    def __init__(self, U: Tensor, S: Tensor, V: Tensor, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.U, self.S, self.V = nn.Parameter(U), nn.Parameter(S), nn.Parameter(V)
        self.bias = bias
        self.gradients: Pass = "autograd"

    @property
    def rank(self) -> int:
        """q, the number of columns of U; between the passes of a step S may be larger on one side."""
        return self.U.shape[1]

    @property
    @abstractmethod
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of the weight it stands for."""

    @property
    def weight(self) -> Tensor:
        """W, formed anew and without a gradient: for code that looks at a layer's weight."""
        with torch.no_grad():
            return (self.U @ self.S @ self.V.mT).reshape(self.dense_shape)

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """U, S and V as they are, outside autograd."""
        return self.U.detach(), self.S.detach(), self.V.detach()

    def hold(self, U: Tensor, S: Tensor, V: Tensor) -> None:
        """Take these factors, of any rank; the parameters stay the same objects, and their gradients are dropped."""
        for parameter, value in ((self.U, U), (self.S, S), (self.V, V)):
            # contiguous, as a checkpoint will have them: products of other strides round otherwise
            _set(parameter, value.to(parameter.dtype).contiguous())

    def zero_factor_gradients(self) -> None:
        """Drop the factors' gradients."""
        self.U.grad = self.S.grad = self.V.grad = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b by thin products."""
        if self.gradients == "bases":
            factors = (self.U, self.S.detach(), self.V, self.bias)
            dtype = _autocast_dtype(x)
            if dtype is None:
                return self._bases_pass(x, *factors)
            with torch.autocast(x.device.type, enabled=False):
                cast = (None if tensor is None else tensor.to(dtype) for tensor in factors)
                return self._bases_pass(x.to(dtype), *cast)  # type: ignore[arg-type]
        U, V = self.U, self.V
        if self.gradients == "core":
            U, V = U.detach(), V.detach()  # type: ignore[assignment]
        return self._up(self._up(self._down(x, V), self.S), U, self.bias)

    @abstractmethod
    def _down(self, x: Tensor, V: Tensor) -> Tensor:
        """Return x V."""

    @abstractmethod
    def _up(self, z: Tensor, M: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return z M^T + b."""

    @abstractmethod
    def _bases_pass(
        self, x: Tensor, U: Tensor, S: Tensor, V: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return the same as `forward`, whose backward pass leaves the gradients of K and L."""

    @abstractmethod
    def to_dense(self) -> nn.Module:
        """Return torch's own layer with the weight U S V^T."""

    @abstractmethod
    def to_two_layers(self) -> nn.Sequential:
        """Return two thin layers of torch that compute the same: V^T, then U S: q (m + n) numbers."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        ranks = {
            state_dict[prefix + name].shape[-1] for name in FACTORS if prefix + name in state_dict
        }
        if len(ranks) == 1 and ranks != {self.rank}:
            q = ranks.pop()
            for parameter, rows in ((self.U, len(self.U)), (self.S, q), (self.V, len(self.V))):
                _set(parameter, parameter.data.new_empty(rows, q))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Return the size that a printed model shows."""
        return f"{tuple(self.dense_shape)}, rank={self.rank}, bias={self.bias is not None}"


class LowRankLinear(LowRankLayer):
    """y = x V S^T U^T + b, in place of an `nn.Linear`."""

    @classmethod
    def from_dense(cls, layer: nn.Linear, rank: int) -> LowRankLinear:
        """Return the best approximation of the layer at this rank; it shares the layer's bias."""
        return cls(*truncated_factors(layer.weight.detach(), rank), layer.bias)

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """(m, n)."""
        return len(self.U), len(self.V)

    def _down(self, x: Tensor, V: Tensor) -> Tensor:
        return x @ V

    def _up(self, z: Tensor, M: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(z, M, bias)

    def _bases_pass(
        self, x: Tensor, U: Tensor, S: Tensor, V: Tensor, bias: Tensor | None
    ) -> Tensor:
        result: Tensor = LinearBases.apply(x, U, S, V, bias)  # type: ignore[no-untyped-call]
        return result

    def to_dense(self) -> nn.Linear:
        """Return an `nn.Linear` with the weight U S V^T and the same bias."""
        return _linear(self.weight, self.bias)

    def to_two_layers(self) -> nn.Sequential:
        """Return x -> x V -> (x V) (U S)^T + b."""
        U, S, V = self.factors
        return nn.Sequential(_linear(V.mT.clone(), None), _linear(U @ S, self.bias))


def truncated_factors(W: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, V of the best rank-q approximation of W, in W's dtype and of their own memory."""
    U, V = two_sided_bases(W, rank)
    S = U.mT @ W.to(U.dtype) @ V
    return U.to(W.dtype), S.to(W.dtype), V.to(W.dtype)


@contextmanager
def gradients_of(layers: list[LowRankLayer], which: Pass) -> Iterator[None]:
    """Let the layers' backward passes leave these gradients inside the block."""
    for layer in layers:
        layer.gradients = which
    try:
        yield
    finally:
        for layer in layers:
            layer.gradients = "autograd"


def _set(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter a value of another shape, without a gradient."""
    parameter.grad = None
    # Where an older graph is alive (a loss that was kept), autograd would go on to expect gradients of the old shape:
    # it forgets that one when the dtype changes, and only then.
    other = torch.float64 if value.dtype == torch.float32 else torch.float32
    parameter.data = value.new_empty(0, dtype=other)
    parameter.data = value


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype in which autocast would have a linear layer of x computed, or None where it leaves it alone."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return None if x.dtype == torch.float64 else torch.get_autocast_dtype(device)


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), bias  # type: ignore[assignment]
    return layer
