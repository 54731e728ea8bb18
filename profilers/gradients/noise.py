"""How much of one batch's gradient is signal, and how many batches make a basis worth having.

At fixed weights G_k = E G + noise of covariance Sigma, independent between batches. <G_k, G_l> of two batches estimates
|E G|^2 without bias, |G_k|^2 is |E G|^2 + tr Sigma, so the K x K inner products hold the gradient noise scale
(McCandlish et al. 2018, An Empirical Model of Large-Batch Training, appendix A.1: there from two batch sizes, here from
pairs of batches, and counted in batches of the size that was used).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..record.profile import Noise
from .rotated import gram_eigenvectors


def measure_noise(
    gradients: Sequence[Tensor],
    products: Tensor,
    rank: int,
    first_basis: Tensor | None = None,
) -> Noise | None:
    """Signal share, gradient noise scale and what the basis of an averaged gradient keeps.

    signal_share = s / e,  batches_needed = (e - s) / s,
    s = sum_{k != l} <G_k, G_l> / (K (K - 1)),  e = sum_k |G_k|^2 / K.
    Both are quotients of unbiased estimates; where noise is all there is, the share falls below zero as often as not.

    kept[b] for b = 1, 2, 4 .. <= K / 2: with P the r leading left singular vectors of the mean of the first b batches,
    |P^T H|^2 / |H|^2 of the mean H of the batches that none of those means has. H is the same for every b: the curve
    rises with b alone, and stays below 1 by the noise that is left in H.

    Args:
        gradients: K matrices of one shape m x n with m <= n, float32 at least.
        products: Their K x K inner products, float64.
        rank: r, at least 1.
        first_basis: All left singular vectors of the first gradient where they are known already.

    Returns:
        None for a single batch. `batches_needed` is None where s is not positive.

    Memory: three temporaries of m n and one eigendecomposition of m^2.
    """
    count = len(gradients)
    if count < 2:
        return None
    energy = float(products.trace()) / count
    signal = (float(products.sum()) - float(products.trace())) / (count * (count - 1))
    return Noise(
        signal_share=signal / energy,
        batches_needed=max(0.0, energy - signal) / signal if signal > 0 else None,
        captured=_kept(gradients, rank, first_basis),
    )


def _kept(gradients: Sequence[Tensor], rank: int, first_basis: Tensor | None) -> dict[str, float]:
    """Energy of the held-out mean in the basis of the mean of b batches, by b; none where that mean is zero."""
    sizes = [2**power for power in range((len(gradients) // 2).bit_length())]
    held_out = _mean(gradients[sizes[-1] :])
    energy = _energy(held_out)
    if energy == 0:
        return {}
    kept = {}
    for size in sizes:
        known = first_basis if size == 1 else None
        basis = gram_eigenvectors([_mean(gradients[:size])]) if known is None else known
        P = basis[:, :rank].to(held_out.dtype)
        kept[str(size)] = _energy(P.mT @ held_out) / energy
    return kept


def _energy(matrix: Tensor) -> float:
    """Sum of squares, in float64: those of very small or large gradients leave float32's range."""
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2


def _mean(gradients: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, gradients) / len(gradients)
