"""Inverse square roots of very many small symmetric matrices on a CPU, without their eigenvectors.

LAPACK takes one matrix at a time: for eigenvectors 70 us of a core at 32 x 32 in float32 and 6 us at 8 x 8 in float64,
and on two cores, which it spends on handing work around, half as much again. Here every operation is one on many
matrices at once: the batch is the last dimension, and entry (i, j) of all of them lies together.

Legend: A k x k symmetric, N of them; T = Q^T A Q tridiagonal, with diagonal d and off-diagonal e.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from .matrix_roots import enough

# Entries of the matrices that are worked on at once: they stay in a core's cache.
BATCH_NUMBERS = 2**20
# Laguerre's iteration converges cubically where the smallest eigenvalue is a single one, by a factor where it is not.
_LAGUERRE_STEPS = 6
# The inverse root is a sum of this many resolvents: off by 1e-6 at most, over eigenvalues of a ratio of 1 / EPS.
_NODES = 14
# Smaller shares of a float32 matrix' largest eigenvalue are rounding.
EPS = torch.finfo(torch.float32).eps


def batches(count: int, side: int) -> Iterable[slice]:
    """Return consecutive slices of `count` matrices, each of at most BATCH_NUMBERS numbers."""
    size = max(1, BATCH_NUMBERS // (side * side))
    return enough(slice(start, min(start + size, count)) for start in range(0, count, size))


class Tridiagonal:
    """Q and T of a batch of symmetric positive matrices, by Householder's reflections.

    T is held in float64. Its eigenvalues are A's to within a few roundings of A's dtype, of the largest one.

    Attributes:
        largest: T's largest absolute row sum: the largest eigenvalue or a little more. Shape (N,), float64.
    """

    def __init__(self, A: Tensor) -> None:
        """Take matrices of shape (N, k, k), k >= 3, in float32 or float64.

        Memory: transient, two copies of A; kept, k^2 / 2 numbers a matrix in A's dtype and 2 k in float64.
        """
        count, k, _ = A.shape
        self._dtype = A.dtype
        # Not a permutation of three dimensions, which would be copied a number at a time.
        entries = A.new_empty(k * k, count).copy_(A.reshape(count, k * k).mT)
        # Of unit size, or the squares of small entries would be lost. No entry is larger than a diagonal one.
        size = entries[:: k + 1].amax(0).clamp_min_(torch.finfo(A.dtype).tiny)
        d, e, self._reflectors = _reduced(entries.div_(size).view(k, k, count))
        self._d, self._e, self._size = d.double(), e.double(), size.double()
        self._rounding = k * torch.finfo(A.dtype).eps
        row_sums = self._d.abs()
        row_sums[1:] += self._e.abs()
        row_sums[:-1] += self._e.abs()
        self._bound = row_sums.amax(0)
        self.largest = self._bound * self._size

    def smallest(self) -> Tensor:
        """Return the smallest eigenvalue of every A, below 0 if rounding made it so, shape (N,), float64.

        Where several of them agree it may come out smaller, never larger.
        """
        return _smallest(self._d, self._e, self._rounding * self._bound, self._bound) * self._size

    def inverse_root_times(self, x: Tensor, shift: Tensor) -> Tensor:
        """Return (A + shift I)^(-1/2) x.

        Args:
            x: Shape (N, k).
            shift: Shape (N,), float64. No eigenvalue of A + shift I may be below EPS of the largest.

        Returns:
            Shape (N, k), in x's dtype.

        Memory: transient, 32 k numbers a matrix in float64.
        """
        y = torch.empty_like(x.mT, dtype=self._dtype, memory_format=torch.contiguous_format).copy_(
            x.mT
        )
        for start, v in enough(enumerate(self._reflectors, start=1)):
            _reflect(y[start:], v)
        upper, d = self._bound + shift / self._size, self._d + shift / self._size
        root = _root_times(d, self._e, y.double(), upper) * self._size.rsqrt()
        y = root.to(self._dtype)
        for start in range(len(self._reflectors), 0, -1):
            _reflect(y[start:], self._reflectors[start - 1])
        return y.mT.to(x.dtype)


def _reduced(A: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return d (k, N), e (k - 1, N) and the vectors v of reflections I - v v^T; A (k, k, N) is overwritten.

    Source: Golub and Van Loan, Matrix Computations, section 8.3.1.
    """
    k = len(A)
    reflectors, off_diagonal = [], []
    for j in range(k - 2):
        v, e = _reflector(A[j + 1 :, j])
        rest = A[j + 1 :, j + 1 :]
        w = (rest * v).sum(1)
        w.addcmul_((w * v).sum(0), v, value=-0.5)
        rest.addcmul_(v[:, None], w, value=-1).addcmul_(w[:, None], v, value=-1)
        reflectors.append(v)
        off_diagonal.append(e)
    off_diagonal.append(A[k - 1, k - 2])
    return A.diagonal().mT, torch.stack(off_diagonal), reflectors


def _reflector(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return v with (I - v v^T) x = e times the first unit vector, and e; v = 0 for x = 0."""
    norm = x.square().sum(0).sqrt_()  # ten times as fast, here, as a vector norm
    e = torch.copysign(norm, -x[0])
    v = x.clone()
    v[0] -= e
    half_square = (norm * v[0].abs()).clamp_min_(torch.finfo(x.dtype).tiny)
    return v.mul_(half_square.rsqrt_()), e


def _reflect(y: Tensor, v: Tensor) -> None:
    y.addcmul_((y * v).sum(0), v, value=-1)


def _smallest(d: Tensor, e: Tensor, rounding: Tensor, bound: Tensor) -> Tensor:
    """Return T's smallest eigenvalue by Laguerre's iteration from a number below it: -rounding, or else -bound.

    It never passes it: with S_p = sum_j (lambda_j - s)^(-p), s <- s + k / (S_1 + sqrt((k - 1) (k S_2 - S_1^2))).
    Source: Wilkinson, The Algebraic Eigenvalue Problem, chapter 7.
    """
    k, h = len(d), len(d) // 2
    ends, squares = [d[:h], d[h + 1 :].flip(0)], [e[:h].square(), e[h:].square().flip(0)]
    if k % 2 == 0:  # a row for the shorter end, infinitely far from s
        ends[1] = torch.cat((torch.full_like(d[:1], torch.inf), ends[1]))
        squares[1] = torch.cat((torch.zeros_like(d[:1]), squares[1]))
    rows, couplings = torch.stack(ends, 1), torch.stack(squares, 1)
    tiny = torch.finfo(d.dtype).tiny
    s = -rounding.clamp_min(tiny)
    inverses, _, middle = _eliminated(rows - s, d[h] - s, couplings)
    is_below = (inverses >= 0).flatten(0, 1).all(0) & (middle > 0)
    s = torch.where(is_below, s, -bound.clamp_min(tiny))
    for _ in enough(range(_LAGUERRE_STEPS)):
        S1, S2 = _sums_of_inverses(*_eliminated(rows - s, d[h] - s, couplings))
        step = k / (S1 + ((k - 1) * (k * S2 - S1.square())).clamp_min_(0).sqrt_())
        # Not finite, or backwards, by rounding: at the eigenvalue.
        s = s + torch.where((step > 0) & (step < torch.inf), step, 0.0)
    return s


def _eliminated(ends: Tensor, middle: Tensor, couplings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eliminate from both ends, as one batch, to the row in between: half as many operations one after another.

    A pivot is q_i = d_i - s - r_i with r_i = e^2 / q of the row before.

    Args:
        ends: d - s, from either end to the middle, shape (h, 2, N).
        middle: The same of the row in between, shape (N,).
        couplings: e^2 of each of the ends' rows with the next, shape (h, 2, N).

    Returns:
        1 / q of the ends, shape (h, 2, N); r of them and for the middle, (h + 1, 2, N); the middle's q.
    """
    r = torch.zeros_like(ends[0])
    inverses, remainders = [], [r]
    for x, square in zip(ends.unbind(0), couplings.unbind(0), strict=True):
        inverses.append((x - r).reciprocal_())
        r = square * inverses[-1]
        remainders.append(r)
    return torch.stack(inverses), torch.stack(remainders), middle - r.sum(0)


def _sums_of_inverses(p: Tensor, r: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """Return S_1 and S_2: -log det(T - s), the sum of -log of k pivots, differentiated once and twice.

    With g_i = r_i / q_i, -q' / q is b_i = 1 / q_i + g_i b and q'' / q is c_i = g_i (c - 2 b^2), b and c those of the
    row before. Takes what `_eliminated` returns; p is overwritten.
    """
    g = r[:-1] * p
    b = _recurrence(p, g)
    square = b.square()
    c = torch.zeros_like(b)
    torch.mul(g[1:], square[:-1], out=c[1:]).mul_(-2)
    _recurrence(c, g)
    b_middle = ((r[-1] * b[-1]).sum(0) + 1) / middle
    c_middle = (r[-1] * (c[-1] - 2 * square[-1])).sum(0) / middle
    S2 = square.sub_(c).sum((0, 1)) + b_middle.square() - c_middle
    return b.sum((0, 1)) + b_middle, S2


def _recurrence(start: Tensor, factor: Tensor) -> Tensor:
    """Return x_i = start_i + factor_i x_(i - 1), all of them; start is overwritten."""
    rows = start.unbind(0)
    for before, row, f in enough(zip(rows, rows[1:], factor.unbind(0)[1:], strict=False)):
        row.addcmul_(f, before)
    return start


def _root_times(d: Tensor, e: Tensor, y: Tensor, upper: Tensor) -> Tensor:
    """Return T^(-1/2) y for eigenvalues in [EPS upper, upper], as the sum of w_j (T + t_j)^(-1) y; y is kept."""
    nodes, weights = (
        torch.tensor(values, dtype=d.dtype, device=d.device)[:, None]
        for values in _quadrature(EPS, _NODES)
    )
    shifted = d[:, None] + nodes * upper
    solved = y[:, None].expand_as(shifted).clone()
    for i in enough(range(1, len(d))):
        ratio = e[i - 1] / shifted[i - 1]
        shifted[i].addcmul_(ratio, e[i - 1], value=-1)
        solved[i].addcmul_(ratio, solved[i - 1], value=-1)
    solved[-1] /= shifted[-1]
    for i in enough(range(len(d) - 2, -1, -1)):
        solved[i].addcmul_(e[i], solved[i + 1], value=-1).div_(shifted[i])
    return solved.mul_(weights).sum(1) * upper.sqrt()


@cache
def _quadrature(smallest: float, count: int) -> tuple[list[float], list[float]]:
    """Return t_j and w_j with x^(-1/2) = sum_j w_j / (x + t_j) for x in [smallest, 1].

    The midpoint rule for (2 / pi) times the integral of 1 / (x + t^2) dt, after t = sqrt(smallest) sn(u) / cn(u), whose
    range is a quarter of Jacobi's period; the functions are found by the arithmetic-geometric mean.
    Source: Hale, Higham and Trefethen 2008, Computing A^alpha, log(A), and Related Matrix Functions by Contour
    Integrals, section 4.
    """
    a, b, c = [1.0], [math.sqrt(smallest)], [math.sqrt(1 - smallest)]
    while c[-1] > 1e-16:
        x, y = a[-1], b[-1]
        a, b, c = [*a, (x + y) / 2], [*b, math.sqrt(x * y)], [*c, (x - y) / 2]
    quarter = math.pi / (2 * a[-1])
    nodes, weights = [], []
    for j in range(count):
        angle = 2 ** (len(a) - 1) * a[-1] * (j + 0.5) * quarter / count
        for a_i, c_i in zip(a[:0:-1], c[:0:-1], strict=True):
            angle = (angle + math.asin(c_i / a_i * math.sin(angle))) / 2
        sn, cn = math.sin(angle), math.cos(angle)
        nodes.append(smallest * (sn / cn) ** 2)
        dn = math.sqrt(cn**2 + smallest * sn**2)
        weights.append(2 * quarter * math.sqrt(smallest) / (math.pi * count) * dn / cn**2)
    return nodes, weights
