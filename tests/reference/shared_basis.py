"""Slow, obvious float64 NumPy shared-basis preconditioner: one output neuron after another, every matrix formed.

Yen et al. 2023, Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization, algorithm 1.
"""

import numpy as np


def orth(Y):
    """The Q of a QR decomposition whose R has a positive diagonal."""
    Q, R = np.linalg.qr(Y)
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


def sum_of_squares(M):
    """A_t = sum_i M_i M_i^T."""
    return sum(M_i @ M_i.T for M_i in M)


def starting_basis(G, k):
    m = len(G)
    F = [[np.cos(np.pi * (i + 0.5) * (j + 0.5) / m) for j in range(k)] for i in range(m)]
    return orth(sum_of_squares([np.outer(g, g) for g in G]) @ orth(G.T @ np.array(F)))


def norm_by_power_iteration(E, v, steps):
    v = v / np.linalg.norm(v)
    for _ in range(steps):
        image = E @ v
        norm = np.linalg.norm(image)
        if norm == 0:
            return 0.0
        v = image / norm
    return norm


def inverse_root(C):
    values, vectors = np.linalg.eigh(C)
    return vectors @ np.diag(values**-0.5) @ vectors.T


class SharedBasis:
    """The directions u_i, as the rows of a matrix."""

    def __init__(self, shape, k, eps, power_steps=5, ridge="absolute"):
        self.m, self.d = shape
        self.is_relative = ridge == "relative"
        self.k, self.eps, self.power_steps = k, eps, power_steps
        self.B, self.R, self.rho = None, [np.zeros((k, k))] * self.m, np.zeros(self.m)

    def step(self, G):
        if self.B is None:
            self.B = starting_basis(G, self.k)
        M = [self.B @ R @ self.B.T + np.outer(g, g) for R, g in zip(self.R, G, strict=True)]
        self.B = orth(sum_of_squares(M) @ self.B)
        return np.array([self.neuron(i, M[i], G[i]) for i in range(self.m)])

    def neuron(self, i, M, g):
        B, k = self.B, self.k
        values, vectors = np.linalg.eigh(B.T @ M @ B)
        sigma = max(values[0], 0.0)
        self.R[i] = vectors @ np.diag(np.maximum(values - sigma, 0.0)) @ vectors.T
        E = M - B @ self.R[i] @ B.T
        start, outside = B @ np.ones(k) / np.sqrt(k), g - B @ B.T @ g
        if k < self.d and np.linalg.norm(outside) > 0:
            start = start + outside / np.linalg.norm(outside)
        self.rho[i] += norm_by_power_iteration(E, start, self.power_steps)
        ridge = self.eps * values.sum() if self.is_relative else self.eps
        ridge = max(ridge, np.finfo(float).eps * (values[-1] - sigma))
        damping = (self.rho[i] + ridge) * np.eye(self.d)
        return inverse_root(B @ self.R[i] @ B.T + damping) @ g
