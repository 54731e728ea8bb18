"""Inverse square roots of small symmetric matrices times vectors, in the way that suits their device and precision."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .tridiagonal import Tridiagonal


class InverseRoots(Protocol):
    """What is asked of N symmetric positive matrices A, shape (N, k, k)."""

    @property
    def largest(self) -> Tensor:
        """The largest eigenvalues, or a little more, shape (N,), float64."""

    def smallest(self) -> Tensor:
        """Return the smallest eigenvalues, or less, and less than 0 where rounding made it so, shape (N,), float64."""

    def inverse_root_times(self, x: Tensor, shift: Tensor) -> Tensor:
        """Return (A + shift I)^(-1/2) x of x (N, k) and shift (N,) in float64; the shifted A are positive."""


class Eigenvectors:
    """The same from all eigenvectors: what `Tridiagonal` is held to, and where it does not serve.

    Raises:
        torch.linalg.LinAlgError: `eigh` does not converge.
    """

    def __init__(self, A: Tensor) -> None:
        values, vectors = torch.linalg.eigh(A)
        self._values: Tensor = values.double()
        self._vectors: Tensor = vectors
        self.largest = self._values[:, -1]

    def smallest(self) -> Tensor:
        """Return the smallest eigenvalues."""
        return self._values[:, 0]

    def inverse_root_times(self, x: Tensor, shift: Tensor) -> Tensor:
        """Return (A + shift I)^(-1/2) x."""
        values = self._values + shift[:, None]
        inside = (self._vectors.mT @ x[:, :, None])[:, :, 0] * values.rsqrt_().to(x.dtype)
        return (self._vectors @ inside[:, :, None])[:, :, 0]


def inverse_roots(A: Tensor) -> InverseRoots:
    """Return the solver that suits matrices of shape (N, k, k), which are not modified.

    Raises:
        torch.linalg.LinAlgError: `eigh` does not converge.
    """
    return Tridiagonal(A) if suits_tridiagonal(A) else Eigenvectors(A)


def suits_tridiagonal(A: Tensor) -> bool:
    """Return whether `Tridiagonal` is the faster way to inverse roots as precise as A: in float32, on a CPU.

    Elsewhere eigendecompositions are batched, float64 wants more digits, and large matrices do not stay in a cache.
    """
    return A.device.type == "cpu" and A.dtype == torch.float32 and 3 <= A.shape[-1] <= 64
