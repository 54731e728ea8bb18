"""Slow, obvious float64 NumPy Sketchy: every matrix formed, one block after another, without graft or delay.

Feinberg et al. 2023, Sketchy; Frequent Directions deflated by the largest eigenvalue that is dropped.
"""

import numpy as np


def cuts(side, block_size):
    return [(a, min(a + block_size, side)) for a in range(0, side, block_size)]


def inverse_fourth_root(C, eps):
    values, vectors = np.linalg.eigh(C)
    if values[-1] <= 0:
        return np.eye(len(C))
    return vectors @ np.diag((np.maximum(values, 0) + eps * values[-1]) ** -0.25) @ vectors.T


class Sketch:
    """C ~ U diag(s) U^T + rho I."""

    def __init__(self, side, rank):
        self.rank = min(rank, side)
        self.low, self.rho = np.zeros((side, side)), 0.0

    def take(self, gram, old, new):
        values, vectors = np.linalg.eigh(old * self.low + new * gram)
        values, vectors = values[::-1], vectors[:, ::-1]
        dropped = values[self.rank] if self.rank < len(values) else 0.0
        U, s = vectors[:, : self.rank], np.maximum(values[: self.rank] - dropped, 0)
        self.low = U @ np.diag(s) @ U.T
        self.rho = old * self.rho + dropped

    def whole(self):
        return self.low + self.rho * np.eye(len(self.low))


class Sketchy:
    """(L)^(-1/4) G (R)^(-1/4) for every block, averaged."""

    def __init__(self, shape, *, rank, betas, eps, block_size, period, accumulation):
        self.betas, self.eps, self.period = betas, eps, period
        self.adds_up = accumulation == "sum"
        rows, columns = cuts(shape[0], block_size), cuts(shape[1], block_size)
        self.sketches = {
            (r, c): (Sketch(r[1] - r[0], rank), Sketch(c[1] - c[0], rank))
            for r in rows
            for c in columns
        }
        self.M, self.t, self.updates = np.zeros(shape), 0, 0

    def step(self, G):
        self.t += 1
        is_seen = (self.t - 1) % self.period == 0
        if is_seen:
            self.updates += 1
        # The average over the gradients seen, with weights b^(last - k), b = beta2^period.
        b = self.betas[1] ** self.period
        weight = (1 - b) / (1 - b**self.updates)
        old, new = (1.0, 1.0) if self.adds_up else (1 - weight, weight)
        direction = np.zeros_like(G)
        for ((a, b), (c, d)), (left, right) in self.sketches.items():
            g = G[a:b, c:d]
            if is_seen:
                left.take(g @ g.T, old, new)
                right.take(g.T @ g, old, new)
            L, R = (inverse_fourth_root(sketch.whole(), self.eps) for sketch in (left, right))
            direction[a:b, c:d] = L @ g @ R
        beta1 = self.betas[0]
        weight = (1 - beta1) / (1 - beta1**self.t)
        self.M = (1 - weight) * self.M + weight * direction
        return self.M
