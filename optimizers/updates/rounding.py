"""Coordinates that are zero but for rounding, at zero."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import hardshrink

from ..matrices import energy_of

# Entries of P^T G and P^T G Q that should be zero reached 13, in units of eps ||G||_F / sqrt(n); a tenth is typical.
_PRODUCT_ROUNDING = 16
# The same that a float64 solver's directions are off by: 26 eps_64 ||G||_F in a plane that gradients never left.
_DIRECTION_ROUNDING = 64 * torch.finfo(torch.float64).eps


def without_rounding(X: Tensor, whole: Tensor | None = None) -> Tensor:
    """Return coordinates X with those at 0 that rounding alone may have made.

    These are up to 16 eps ||X||_F / sqrt(n), as rounding spreads over a row, and up to 64 eps_64 ||X||_F: what a
    float64 solver's directions are off by may meet in one entry.

    In directions that a gradient lacks its coordinates are zero but for rounding, which moments that divide by their
    size (Adam's, Adafactor's, Lion's) scale to whole steps of random sign.

    Args:
        X: Shape (m, n), products of a matrix with orthonormal ones.
        whole: The matrix whose norm and n count, where that is not X.

    Never waits for the device. Memory: transient, m n numbers; twice as many beside a CPU.
    """
    whole = X if whole is None else whole
    spread = _PRODUCT_ROUNDING * torch.finfo(X.dtype).eps / whole.shape[1] ** 0.5
    least = energy_of(whole).sqrt() * max(spread, _DIRECTION_ROUNDING)
    if X.device.type == "cpu":  # a fifth of the time
        return hardshrink(X, 0.0 if isinstance(X, FakeTensor) else float(least))
    return torch.where(X.abs() > least, X, 0)
