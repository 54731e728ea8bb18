"""Inverse roots of batches of symmetric positive matrices, by eigendecomposition, a bounded number at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

from ..bases.decompositions import FLOAT64_MAX_SIDE

Piece = TypeVar("Piece")

# What one batched decomposition holds of its input; vectors and products need about as much again, each.
CHUNK_BYTES = 64 * 2**20


def chunks(count: int, side: int) -> Iterable[slice]:
    """Return consecutive slices of `count` matrices, each at most CHUNK_BYTES in float64 but never empty."""
    size = max(1, CHUNK_BYTES // (8 * side * side))
    return enough(slice(start, min(start + size, count)) for start in range(0, count, size))


def enough(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """Return the pieces of work as they are; under fake tensors the first two.

    For pieces of which none takes more memory than the second, and whose results are gone or replaced when the next has
    made its own: without data there is nothing else to find out.
    """
    return pieces if detect_fake_mode() is None else itertools.islice(pieces, 2)


def spectrum(C: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, clamped at 0, and eigenvectors of symmetric positive matrices.

    Args:
        C: Shape (..., b, b), any real dtype.

    Returns:
        Values of shape (..., b), ascending, and vectors in the columns of (..., b, b): in float64, or in float32
        for sides above FLOAT64_MAX_SIDE.

    Raises:
        torch.linalg.LinAlgError: `eigh` does not converge.
    """
    wide = torch.float64 if C.shape[-1] <= FLOAT64_MAX_SIDE else torch.float32
    values, vectors = torch.linalg.eigh(C.to(wide))
    return values.clamp_min(0), vectors


def inverse_root(C: Tensor, power: int, ridge: float) -> Tensor:
    """Return (C + ridge * lambda_max I)^(-1/power) of symmetric positive matrices; the identity for a zero matrix.

    The ridge is relative to each matrix's own largest eigenvalue, so that the scale of the gradients drops out, and is
    never below the rounding of C's dtype: smaller eigenvalues are noise.

    Args:
        C: Shape (..., b, b), any real dtype. Not modified.
        power: 2 for the inverse square root, 4 for the inverse fourth root.
        ridge: >= 0.

    A matrix with an entry that is not finite gives a root that is not, or raises.

    Raises:
        torch.linalg.LinAlgError: `eigh` does not converge.

    Memory: transient, three matrices in float64 for each of the batch, and the result.
    """
    values, vectors = spectrum(C)
    largest = values[..., -1:]
    values = values + max(ridge, torch.finfo(C.dtype).eps) * largest
    powers = torch.where(largest == 0, 1.0, values).pow_(-1 / power)
    return (vectors * powers[..., None, :]) @ vectors.mT
