"""Bases from a gradient or its covariance: orthonormal, largest energy first, with reproducible signs.

Legend: M rows, N columns (M <= N), R rank. Gram matrices are formed and solved in float64 up to FLOAT64_MAX_SIDE: the
first gradients of a training run are nearly rank 1, where float32 eigenvectors are off by whole units.
"""

from __future__ import annotations

import torch
from torch import Tensor

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # torch's stub lacks it

# A float64 eigendecomposition costs about twice a float32 one on a CPU; above this side even that is minutes.
FLOAT64_MAX_SIDE = 4096


def left_basis(G: Tensor, rank: int | None = None) -> Tensor:
    """Return the leading left singular vectors of G, from the eigenvectors of G G^T.

    Args:
        G: Shape (m, n), real floating point, finite.
        rank: Number of vectors, 1 <= rank <= m; None for all m.

    Returns:
        P, shape (m, rank), orthonormal columns in order of decreasing energy, in the dtype it was solved in.

    Raises:
        torch.linalg.LinAlgError: Neither `eigh` nor `svd` converges.
    """
    A = G.to(_solve_dtype(G))
    try:
        return gram_basis(A @ A.mT, rank)
    except LinAlgError:
        U, _, _ = torch.linalg.svd(A, full_matrices=False)
        return _leading(U, rank)


def gram_basis(C: Tensor, rank: int | None = None) -> Tensor:
    """Return the leading eigenvectors of a symmetric positive matrix C, shape (m, m), as (m, rank)."""
    _, vectors = torch.linalg.eigh(C.to(_solve_dtype(C)))
    return _leading(vectors.flip(-1), rank)


def two_sided_bases(G: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Return leading left and right singular vectors of G (m x n, m <= n).

    At full rank Q is square: its last n - m columns are an orthonormal basis of G's null space, which is arbitrary.

    Returns:
        P of shape (m, rank) and Q of shape (n, rank); (m, m) and (n, n) for rank None.

    Raises:
        torch.linalg.LinAlgError: Neither `svd` nor `eigh` converges.
    """
    A = G.to(_solve_dtype(G))
    try:
        U, _, Vh = torch.linalg.svd(A, full_matrices=rank is None)
        return _leading(U, rank), _leading(Vh.mT, rank)
    except LinAlgError:
        return gram_basis(A @ A.mT, rank), gram_basis(A.mT @ A, rank)


def canonical_signs(P: Tensor) -> Tensor:
    """Return P with the entry of largest magnitude of every column positive."""
    largest = P.gather(0, P.abs().argmax(0, keepdim=True))
    return P * torch.where(largest < 0, -1.0, 1.0).to(P.dtype)


def matched_signs(P: Tensor, old: Tensor) -> Tensor:
    """Return P with every column on the same side as the old basis' column of that index."""
    overlap = (P * old.to(P.dtype)).sum(0, keepdim=True)
    return P * torch.where(overlap < 0, -1.0, 1.0).to(P.dtype)


def _solve_dtype(G: Tensor) -> torch.dtype:
    return torch.float64 if min(G.shape) <= FLOAT64_MAX_SIDE else torch.float32


def _leading(vectors: Tensor, rank: int | None) -> Tensor:
    # A slice would keep the whole matrix alive for as long as the basis lives.
    return vectors[:, :rank].clone(memory_format=torch.contiguous_format)
