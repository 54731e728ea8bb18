"""Slow, obvious float64 NumPy Block Adam: one block after another.

Yun, Lozano and Yang 2022, as Yen et al. 2023 compare it: blocks of one output neuron's weights, eps inside the root.
"""

import numpy as np


class BlockAdam:
    """(V + eps I)^(-1/2) M for every block of b weights of a row; V = EMA[g g^T], M = EMA[g]."""

    def __init__(self, shape, b, *, betas, eps):
        self.b, self.betas, self.eps, self.t = b, betas, eps, 0
        self.M = np.zeros(shape)
        self.V = {}

    def step(self, G):
        self.t += 1
        first, second = ((1 - beta) / (1 - beta**self.t) for beta in self.betas)
        self.M = (1 - first) * self.M + first * G
        step = np.zeros_like(G)
        for row in range(G.shape[0]):
            for start in range(0, G.shape[1], self.b):
                place = (row, slice(start, start + self.b))
                g = G[place]
                old = self.V.get((row, start), np.zeros((self.b, self.b)))
                V = self.V[row, start] = (1 - second) * old + second * np.outer(g, g)
                values, vectors = np.linalg.eigh(V)
                values = np.maximum(values, np.finfo(float).eps * values[-1]) + self.eps
                step[place] = vectors @ np.diag(values**-0.5) @ vectors.T @ self.M[place]
        return step
