"""Directions that the data leave undetermined, chosen from the determined ones alone: the same on every machine.

A gradient of rank k determines k singular vectors. The rest of a wider basis is any orthonormal basis of what remains,
and a decomposition fills it with rounding noise: another processor, thread count or layout fills it differently, and
moments that live there make another run of it. Here the rest is chosen by a rule that does not see the noise.

A direction counts as determined where its singular or eigenvalue is above what rounding can put there. Values that are
equal, or closer to one another than that, determine a space and no directions in it: those remain the solver's, and so
do directions whose value lies about at the threshold.

Legend: n rows; P n x k orthonormal, determined; r columns wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# Of float32 and float64 kernels here, in units of eps ||A||_F: eigenvalues that should be zero reached 5, the diagonals
# of R mostly 8 (at up to 1,024 rows, condition numbers to 1e3); behind an old basis in no order of energy two reached
# 19 and 114, so there a direction of noise may pass for a determined one.
_SOLVER_ROUNDING = 16
# One unit in the last place of every entry moves no singular value by more than eps ||A||_F.
_ENTRY_ROUNDING = 2
# How far a weight in the choice of axes may be from 1: far above rounding, too little to choose badly.
_WEIGHT_SPREAD = 0.125
_GOLDEN_RATIO = 0.6180339887498949


def solver_rounding(dtype: torch.dtype) -> float:
    """Return how large, relative to ||A||_F, a kernel of this dtype may find a value of A that is zero."""
    return _SOLVER_ROUNDING * torch.finfo(dtype).eps


def entry_rounding(dtype: torch.dtype) -> float:
    """Return how large, relative to ||A||_F, rounding A's entries to this dtype may make a value that was zero."""
    return _ENTRY_ROUNDING * torch.finfo(dtype).eps


def where_determined(is_determined: Tensor) -> Tensor:
    """Return the indices of what is determined; under fake tensors, which have no values, all. Waits for the device."""
    if isinstance(is_determined, FakeTensor):
        return torch.arange(len(is_determined), device=is_determined.device)
    return is_determined.nonzero()[:, 0]


def zero_rows_of(A: Tensor, Q: Tensor) -> Tensor:
    """Return Q with zeros in the rows in which A, whose column space Q is a basis of, has nothing but zeros.

    So the axes of weights that have no gradient are completed exactly, and none has a trace of rounding in them.
    """
    return Q.mul_((A != 0).any(1, keepdim=True))


def orthonormal_factor(A: Tensor, noise: Tensor) -> Tensor:
    """Return Q of A = Q R with a positive diagonal of R; what A leaves undetermined of it is completed.

    Column j of Q is determined where R_jj is above `noise`: where it is not, A's column lies in the span of those
    before it but for rounding. Those columns are left out, and the factorization is made anew without them, as their Q
    is noise that later columns are orthogonal to.

    Args:
        A: Shape (n, r); of its columns the first min(n, r) are factored.
        noise: How large rounding may make the diagonal of R, a scalar, or of shape (r,) for each column.

    Returns:
        Shape (n, min(n, r)). Waits for the device once, and once more for every time it is made anew.
    """
    A = A[:, : len(A)]
    noise = noise.expand(noise.shape or A.shape[1:])[: A.shape[1]]
    columns = torch.arange(A.shape[1], device=A.device)
    while True:
        reflectors, scales = torch.geqrf(A[:, columns] if len(columns) < A.shape[1] else A)
        diagonal = reflectors.diagonal()
        kept = where_determined(diagonal.abs() > noise[columns])
        if len(kept) == len(columns):
            break
        columns = columns[kept]
    signs = torch.where(diagonal < 0, -1.0, 1.0).to(A.dtype)
    Q: Tensor = torch.linalg.householder_product(reflectors, scales).mul_(signs)
    if len(columns) == A.shape[1]:
        return Q
    Q = zero_rows_of(A, Q)
    place = torch.ones(A.shape[1], dtype=torch.bool, device=A.device)
    place[columns] = False
    place = torch.cat((columns, place.nonzero()[:, 0])).argsort()
    return completed(Q, A.shape[1])[:, place]


def completed(P: Tensor, width: int) -> Tensor:
    """Return P with further orthonormal columns up to `width`, which depend on its span alone.

    They are coordinate axes, turned by a block reflector as far as P's span takes them. k axes are left out, those in
    which the span is best seen (the pivots of P = L U). With P_1 the rows of P at the pivots, P_2 the others,
    P_1^T = Q R with a positive diagonal, and M = P_2 Q, the column for axis j of the others is

        -(R^T + I) (R + I)^(-1) M_j^T at the pivots,    e_j - M (R + I)^(-1) M_j^T at the others.

    A row in which P is zero keeps its axis: a weight without gradients stays by itself. For given pivots the columns
    are a smooth function of the span, whichever basis of it P is. The pivots are chosen among rows with weights that
    differ (a golden-ratio sequence), as rounding would decide between rows of equal size.

    Args:
        P: Shape (n, k), orthonormal.
        width: r, k <= r <= n.

    Returns:
        Shape (n, r); P itself where r = k.

    Memory: transient, n (r - k) numbers.
    """
    n, k = P.shape
    if width == k:
        return P
    if k == 0:
        return torch.eye(n, width, dtype=P.dtype, device=P.device)
    pivots, others = _axes(P)
    Q, R = torch.linalg.qr(P[pivots].mT)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).to(P.dtype)
    M = P[others] @ Q.mul_(signs)
    del Q
    R.mul_(signs[:, None]).diagonal().add_(1)
    turned = torch.linalg.solve_triangular(R, M[: width - k].mT, upper=True).neg_()
    result = P.new_empty(n, width)
    result[:, :k] = P
    rest = result[:, k:]
    rest[pivots] = R.mT @ turned
    rest[others] = M @ turned
    rest[others[: width - k], torch.arange(width - k, device=P.device)] += 1
    return result


def _axes(P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that are pivots of P = L U with partial pivoting, and the other rows, each in order."""
    n, k = P.shape
    i = torch.arange(n, dtype=P.dtype, device=P.device)
    weights = 1 + _WEIGHT_SPREAD * (i * _GOLDEN_RATIO).frac_()
    swaps = torch.linalg.lu_factor_ex(P * weights[:, None])[1]
    rows = list(range(n))
    if not isinstance(P, FakeTensor):
        for j, swap in enumerate(swaps.tolist()):
            rows[j], rows[swap - 1] = rows[swap - 1], rows[j]
    index = torch.tensor(rows, device=P.device)
    return index[:k].sort().values, index[k:].sort().values
