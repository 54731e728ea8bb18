"""Gradients made safe: non-finite ones masked to zero, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def finite_gradient(gradient: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return a gradient in this dtype, or zeros in its place if it is not finite.

    A gradient whose squares would overflow is as bad as one that did.

    Returns:
        The gradient, a copy; whether it was finite; and whether it was finite and not zero: two 0-d tensors.
    """
    # Ten times faster on a CPU than an infinity norm. NaN compares false.
    low, high = torch.aminmax(gradient)
    largest = torch.maximum(-low, high).to(dtype)
    finite = largest < (torch.finfo(dtype).max / gradient.numel()) ** 0.5
    return torch.where(finite, gradient.to(dtype), 0.0), finite, finite & (largest > 0)
