"""Every parameter as a matrix: conv weights are out x (in * kernel), vectors are 1 x n.

Bases want the short side first. Without a basis a matrix stays as it lies in memory, because elementwise arithmetic
between a transposed gradient and its moments is several times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


def matrix_shape(shape: Sequence[int], *, short_first: bool = True) -> tuple[int, int]:
    """Return (m, n) of a parameter's matrix view, m <= n if `short_first`; scalars are (1, 1), vectors (1, n)."""
    if len(shape) < 2:
        return 1, prod(shape)
    rows, columns = shape[0], prod(shape[1:])
    return (columns, rows) if short_first and rows > columns else (rows, columns)


def as_matrix(tensor: Tensor, *, short_first: bool = True) -> Tensor:
    """Return the matrix view (or copy, where no view exists) of a tensor, transposed if tall and `short_first`."""
    flat = tensor.reshape(matrix_shape(tensor.shape, short_first=False))
    return flat.mT if short_first and flat.shape[0] > flat.shape[1] else flat


def as_parameter(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a matrix, transposed or not, in the shape of the parameter it came from."""
    is_transposed = tuple(matrix.shape) != matrix_shape(shape, short_first=False)
    return (matrix.mT if is_transposed else matrix).reshape(tuple(shape))


def energy_of(matrix: Tensor) -> Tensor:
    """Return ||G||_F^2 of a matrix, transposed or not. A dot product takes a quarter of a norm's time on a CPU."""
    flat = (matrix if matrix.is_contiguous() else matrix.mT).reshape(-1)
    return torch.dot(flat, flat)
