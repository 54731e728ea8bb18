"""Block structure of a layer's second moment, and what one basis for all of its blocks keeps of them.

The weight W is d_out x d_in as torch holds it, and so are the gradients here. Grouped by output neuron, C has d_out
diagonal blocks C_i = (1/K) sum_k g_ki g_ki^T, d_in wide, with g_ki row i of G_k; grouped by input neuron, the same for
columns. ||C_i||_F^2 = (1/K^2) sum_kl <g_ki, g_li>^2 needs a K x K matrix M_i of inner products per block, and the sum
of the M_i is the one that gives ||C||_F. Nothing wider than d_in is formed.

Source: Yen et al. 2023, Block Low-Rank Preconditioner with Shared Basis, section 2 (its W is the transpose).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..record.profile import Blocks
from .rotated import eigenvectors
from .spectrum import in_float64

SHARED_RANKS = (8, 16, 32, 64)
# Numbers of one temporary; bounds the memory, not the result.
_CHUNK = 2**18
# Wider shared bases are found by subspace iteration: eigenvectors of all of a 1,376-wide matrix take 0.3 s.
_EIGH_MAX_WIDTH = 1024
_EXTRA_DIRECTIONS = 32
_POWER_STEPS = 4


def row_grams(gradients: Sequence[Tensor]) -> Tensor:
    """All inner products <g_ki, g_li> of the K gradients' rows: shape (rows, K, K), float64, on the CPU.

    Memory: a chunk of 2^18 numbers in float64 beside the result.
    """
    step = max(1, _CHUNK // (len(gradients) * gradients[0].shape[1]))
    grams = [(rows @ rows.mT).cpu() for rows in _row_stacks(gradients, step)]
    return torch.cat(grams)


def measure_blocks(gradients: Sequence[Tensor], grams: Tensor | None = None) -> Blocks:
    """Shares of ||C||_F^2 in diagonal blocks, and of the output blocks' squared norm that a rank-k basis keeps.

    by_output = sum_i ||C_i||_F^2 / ||C||_F^2;  white noise gives (d_in + K + 1) / (d_out d_in + K + 1)
    by_input: the same with rows and columns exchanged
    shared[k] = sum_i ||B^T C_i B||_F^2 / sum_i ||C_i||_F^2, B the k leading eigenvectors of sum_i C_i^2
    own[k] = the same with every block's own k leading eigenvectors; 1 from k = K on, the most rank C_i can have

    That B minimises sum_i ||C_i - B B^T C_i||_F^2: the left singular vectors of the blocks side by side, which the
    paper's algorithm follows one gradient at a time (section 2.2, the matrix A_t). B^T C_i B is the best coefficient
    matrix for it. k is of 8, 16, 32, 64, those below d_in.

    Args:
        gradients: K >= 1 finite, nonzero matrices d_out x d_in, float32 at least.
        grams: Their `row_grams` where they are known already.

    Memory: d_out K (K + 96) numbers, d_in^2 up to a width of 1,024, and chunks of 2^18 numbers.
    """
    rows, columns = gradients[0].shape
    count = len(gradients)
    if grams is None:
        grams = row_grams(gradients)
    whole = float(grams.sum(0).square().sum())
    output = float(grams.square().sum())
    by_column = float(row_grams([G.mT for G in gradients]).square().sum())
    ranks = [k for k in SHARED_RANKS if k < columns]
    return Blocks(
        by_output=output / whole,
        by_input=by_column / whole,
        by_output_noise=(columns + count + 1) / (rows * columns + count + 1),
        by_input_noise=(rows + count + 1) / (rows * columns + count + 1),
        shared=_shared_shares(gradients, grams, ranks) if ranks else {},
        own={str(k): _own_share(grams, k) for k in ranks},
    )


def shared_basis(gradients: Sequence[Tensor], grams: Tensor, rank: int) -> Tensor:
    """The leading eigenvectors of sum_i C_i^2 = (1/K^2) sum_i A_i^T M_i A_i, A_i the K x d_in rows i of all gradients.

    Up to a width of 1,024 the matrix is formed and solved. Above, subspace iteration on 32 more vectors than asked for
    approaches their span from below: where the inputs' spectrum decays as i^(-1/2) or faster the shares come out within
    0.0002 of the best ones, for white noise 7 % of their value too low.

    Returns:
        B, d_in x rank, orthonormal, in the gradients' dtype and on their device.
    """
    # Fourth powers of small gradients leave float32's range; the eigenvectors do not depend on the scale.
    scale = grams.diagonal(dim1=1, dim2=2).amax()
    weights = (grams / scale).to(gradients[0])
    unit = float(scale.sqrt())
    width = gradients[0].shape[1]
    if width <= _EIGH_MAX_WIDTH:
        return _eigenvectors(gradients, weights, unit)[:, :rank]
    return _iterated(gradients, weights, unit, min(rank + _EXTRA_DIRECTIONS, width))[:, :rank]


def _eigenvectors(gradients: Sequence[Tensor], weights: Tensor, unit: float) -> Tensor:
    """All eigenvectors of sum_i A_i^T W_i A_i / unit^2, by forming it; largest eigenvalue first."""
    width = gradients[0].shape[1]
    total = gradients[0].new_zeros(width, width)
    start = 0
    for chunk in _row_stacks(gradients, max(1, _CHUNK // (len(gradients) * width)), exact=False):
        A = chunk / unit
        weighted = weights[start : start + len(A)] @ A
        total.addmm_(A.flatten(0, 1).mT, weighted.flatten(0, 1))
        start += len(A)
    return eigenvectors(total)


def _iterated(gradients: Sequence[Tensor], weights: Tensor, unit: float, size: int) -> Tensor:
    """An approximation of the leading `size` eigenvectors of the same matrix, which is not formed."""

    def times(Y: Tensor) -> Tensor:
        Z = weights @ torch.stack([G @ Y for G in gradients], 1)
        image = torch.zeros_like(Y)
        for k, G in enumerate(gradients):
            image.addmm_(G.mT, Z[:, k])
        return image / unit**2

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(gradients[0].shape[1], size, generator=generator)
    Y: Tensor = torch.linalg.qr(times(start.to(gradients[0]))).Q
    for _ in range(_POWER_STEPS):
        Y = torch.linalg.qr(times(Y)).Q
    return Y @ eigenvectors(Y.mT @ times(Y))


def _shared_shares(
    gradients: Sequence[Tensor], grams: Tensor, ranks: Sequence[int]
) -> dict[str, float]:
    """sum_i ||B^T C_i B||_F^2 / sum_i ||C_i||_F^2 for the leading k columns of one basis, by k."""
    B = shared_basis(gradients, grams, ranks[-1])
    # ||B^T A^T A B||_F = ||(A B)(A B)^T||_F, and the columns of B add up: d_out x K x k stands for all of the blocks.
    inside = in_float64(torch.stack([G @ B for G in gradients], 1)).cpu()
    output = float(grams.square().sum())
    kept = torch.zeros_like(grams)
    shares, start = {}, 0
    for k in ranks:
        columns = inside[:, :, start:k]
        kept += columns @ columns.mT
        shares[str(k)] = float(kept.square().sum()) / output
        start = k
    return shares


def _own_share(grams: Tensor, rank: int) -> float:
    """sum_i sum of the `rank` largest squared eigenvalues of C_i over sum_i ||C_i||_F^2."""
    count = grams.shape[1]
    if rank >= count:
        return 1.0
    squares = torch.linalg.eigvalsh(grams).square()
    return float(squares[:, -rank:].sum() / squares.sum())


def _row_stacks(gradients: Sequence[Tensor], step: int, *, exact: bool = True) -> Iterator[Tensor]:
    """Yield `step` rows of all gradients at a time, rows x K x columns, in float64 if `exact`."""
    for start in range(0, gradients[0].shape[0], step):
        rows = torch.stack([G[start : start + step] for G in gradients], 1)
        yield in_float64(rows) if exact else rows
