"""What a shared basis leaves out of every neuron's second moment: its norm by power iteration, without forming it.

Legend as in `shared_basis`: B d x k the new basis, C = B^T B_old, N = B_old - B C what it misses of the old one; for
each neuron, g its gradient, h = B^T g, r = g - B h, M = B_old R_old B_old^T + g g^T, s the shift of its R.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Residual:
    """E = M - B R B^T for a batch of neurons, R = B^T M B - s I, applied to vectors v = B a + N b + c r.

    N and r are orthogonal to B, so with y = N^T v and x = r^T v
    E v = B (s a + C R_old y + x h) + N (R_old (C^T a + y)) + (h^T a + x) r.
    Written like this nothing cancels: E is small beside M and B R B^T, and float32 would not find it as their
    difference. A product with E takes 8 k^2 and its norm 2 k^2 operations a neuron, however many inputs there are; all
    but R_old's, which reads R_old once for both of its vectors, are one product for all neurons.
    """

    def __init__(
        self,
        R: Tensor,
        C: Tensor,
        h: Tensor,
        n: Tensor,
        overlap: Tensor,
        outside: Tensor,
        shift: Tensor,
    ) -> None:
        """Take R_old, C, B^T g, N^T r, N^T N, |r|^2 and s."""
        self.R, self.C, self.h, self.n = R, C, h, n
        self.overlap, self.outside, self.shift = overlap, outside, shift

    def norm(self, steps: int) -> Tensor:
        """Return ||E v|| / ||v|| after power steps from v = B 1 / sqrt(k) + r / |r|, shape (neurons, 1)."""
        a = torch.full_like(self.h, self.h.shape[1] ** -0.5)
        b = torch.zeros_like(self.h)
        c = torch.where(self.outside > 0, self.outside, math.inf).rsqrt()
        y, x, size = self._products(a, b, c)
        for _ in range(steps):
            a, b, c, y, x = (value / size for value in (a, b, c, y, x))
            R_y, R_a = (self.R @ torch.stack((y, a @ self.C), 2)).unbind(2)
            a, b, c = (
                torch.addcmul(self.shift * a, x, self.h).addmm_(R_y, self.C.mT),
                R_a + R_y,
                dot(self.h, a) + x,
            )
            y, x, size = self._products(a, b, c)
        return size

    def _products(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return N^T v, r^T v and ||v||, which is never quite 0."""
        y = (b @ self.overlap).addcmul_(c, self.n)
        x = dot(self.n, b).addcmul_(c, self.outside)
        square = dot(a, a) + dot(b, y) + c * x
        return y, x, square.clamp_min_(torch.finfo(square.dtype).tiny).sqrt_()


def times(matrices: Tensor, rows: Tensor) -> Tensor:
    """Return matrix i times row i, as rows."""
    return (matrices @ rows[:, :, None])[:, :, 0]


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner products of rows, as a column."""
    return (left * right).sum(1, keepdim=True)
