"""Every parameter as a matrix with its short side first: conv weights are out x (in * kernel), vectors are 1 x n."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (m, n), m <= n, of a parameter's matrix view; scalars are (1, 1), vectors (1, n)."""
    if len(shape) < 2:
        return 1, prod(shape)
    rows, columns = shape[0], prod(shape[1:])
    return min(rows, columns), max(rows, columns)


def as_matrix(tensor: Tensor) -> Tensor:
    """Return the m x n view (or copy, where no view exists) of a tensor, transposed if it is tall."""
    flat = tensor.reshape(1, -1) if tensor.dim() < 2 else tensor.reshape(tensor.shape[0], -1)
    return flat.mT if flat.shape[0] > flat.shape[1] else flat


def as_parameter(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Return an m x n matrix in the shape of the parameter it came from."""
    tall = len(shape) >= 2 and shape[0] > prod(shape[1:])
    return (matrix.mT if tall else matrix).reshape(tuple(shape))
