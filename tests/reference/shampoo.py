"""Slow, obvious float64 NumPy Shampoo with blocks, delayed start and grafting, one block after another.

Gupta et al. 2018, algorithm 1; blocks, start, period and the normalised graft from Anil et al. 2020.
"""

import numpy as np


def ema(old, new, beta, t):
    """A bias-corrected average: the sum of beta^(t - s) x_s over its own weights."""
    weight = (1 - beta) / (1 - beta**t)
    return new if old is None else (1 - weight) * old + weight * new


def inverse_fourth_root(C, eps):
    values, vectors = np.linalg.eigh(C)
    if values[-1] <= 0:
        return np.eye(len(C))
    ridge = max(eps, np.finfo(float).eps) * values[-1]
    return vectors @ np.diag((np.maximum(values, 0) + ridge) ** -0.25) @ vectors.T


def cuts(side, block_size):
    return [(a, min(a + block_size, side)) for a in range(0, side, block_size)]


class Graft:
    """The step of the method whose length is taken."""

    def __init__(self, kind, beta2):
        self.kind, self.beta2, self.V, self.t = kind, beta2, None, 0

    def step(self, G):
        self.t += 1
        if self.kind == "sgd":
            return G
        if self.kind == "rmsprop-normalized" and np.linalg.norm(G) > 0:
            G = G / np.linalg.norm(G)
        self.V = ema(self.V, G**2, self.beta2, self.t)
        return G / (np.sqrt(self.V) + 1e-10)


class Shampoo:
    """L^(-1/4) G R^(-1/4) for every block, grafted, averaged."""

    def __init__(self, shape, *, betas, eps, block_size, period, start_step, graft, accumulation):
        self.betas, self.eps, self.period, self.start = betas, eps, period, start_step
        self.graft = None if graft == "none" else Graft(graft, betas[1])
        self.adds_up = accumulation == "sum"
        self.blocks = [
            (r, c) for r in cuts(shape[0], block_size) for c in cuts(shape[1], block_size)
        ]
        self.L, self.R, self.roots = {}, {}, {}
        self.M, self.t = None, 0

    def step(self, G):
        self.t += 1
        for block in self.blocks:
            (a, b), (c, d) = block
            g = G[a:b, c:d]
            self.L[block] = self.take(self.L.get(block), g @ g.T)
            self.R[block] = self.take(self.R.get(block), g.T @ g)
        u = self.unaveraged(G)
        self.M = ema(self.M, u, self.betas[0], self.t) if self.betas[0] > 0 else u
        return self.M

    def take(self, old, new):
        if self.adds_up:
            return new if old is None else old + new
        return ema(old, new, self.betas[1], self.t)

    def unaveraged(self, G):
        graft = None if self.graft is None else self.graft.step(G)
        if graft is not None and self.t < self.start:
            return graft
        if not self.roots or (self.t - 1) % self.period == 0:
            for block in self.blocks:
                self.roots[block] = [
                    inverse_fourth_root(C[block], self.eps) for C in (self.L, self.R)
                ]
        direction = np.zeros_like(G)
        for block in self.blocks:
            (a, b), (c, d) = block
            left, right = self.roots[block]
            direction[a:b, c:d] = left @ G[a:b, c:d] @ right
        if graft is None or not direction.any():
            return direction
        return direction * np.linalg.norm(graft) / np.linalg.norm(direction)
