"""Moving averages kept in any dtype, or in 8-bit blocks, and computed in the gradient's."""

from __future__ import annotations

from torch import Tensor

from ..state import low_bit


def debiased(beta: float, t: int) -> float:
    """Return beta_t = (beta - beta^t) / (1 - beta^t): 0 at t = 1, towards beta later."""
    return (beta - beta**t) / (1 - beta**t)


def average(buffer: Tensor, value: Tensor, beta: float) -> Tensor:
    """Update buffer <- beta * buffer + (1 - beta) * value in value's precision and return the unrounded result."""
    if low_bit.stored_dtype(buffer) == value.dtype:
        return buffer.lerp_(value, 1 - beta)
    result = low_bit.read(buffer, value.dtype).lerp_(value, 1 - beta)
    low_bit.write(buffer, result)
    return result


def average_square(buffer: Tensor, value: Tensor, beta: float) -> Tensor:
    """Update buffer <- beta * buffer + (1 - beta) * value^2 in value's precision and return the unrounded result."""
    if low_bit.stored_dtype(buffer) == value.dtype:
        return buffer.mul_(beta).addcmul_(value, value, value=1 - beta)
    result = low_bit.read(buffer, value.dtype).mul_(beta).addcmul_(value, value, value=1 - beta)
    low_bit.write(buffer, result)
    return result
