"""Slow, obvious float64 NumPy versions of every update, written from the papers' algorithms, line by line.

W is m x n with m <= n here; the caller transposes tall matrices. Bases are handed in: they have tests of their own.
Paper 1: Nguyen et al. 2025 (AdaDiag, AdafacDiag, HfacDiag). Paper 0: Liang et al. 2024 (Online Subspace Descent).
"""

import numpy as np


def beta_hat(beta, t):
    """Paper 1's bias-corrected decay: the weights of an EMA that is divided by 1 - beta^t."""
    return (beta - beta**t) / (1 - beta**t)


def clip(U):
    return U / max(1.0, np.sqrt(np.mean(U**2)))


EPS = np.finfo(float).eps


def without_rounding(X, eps):
    """Coordinates in a basis, with those at 0 that are rounding: the papers' projections are exact."""
    least = max(16 * eps / np.sqrt(X.shape[1]), 64 * EPS)
    return np.where(np.abs(X) > least * np.linalg.norm(X), X, 0.0)


class Adam:
    """Paper 1, algorithm 1, with eps outside the root."""

    def __init__(self, betas=(0.9, 0.999), eps=1e-8):
        self.betas, self.eps, self.M, self.V, self.t = betas, eps, None, None, 0

    def step(self, G):
        self.t += 1
        b1, b2 = (beta_hat(beta, self.t) for beta in self.betas)
        self.M = (0 if self.M is None else b1 * self.M) + (1 - b1) * G
        self.V = (0 if self.V is None else b2 * self.V) + (1 - b2) * G**2
        return self.M / (np.sqrt(self.V) + self.eps)

    def rotate(self, R, S):
        """Change coordinates by R on rows and S on columns; variances by the squared entries."""
        self.M = R @ self.M @ S.T
        self.V = R**2 @ self.V @ (S**2).T

    def reset(self):
        self.M, self.V, self.t = None, None, 0


class Adafactor:
    """Paper 1, algorithm 2: V = r s^T / (1^T r) formed in full."""

    def __init__(self, momentum, betas=(0.9, 0.999), eps=1e-30):
        self.momentum, self.betas, self.eps = momentum, betas, eps
        self.reset()

    def step(self, G):
        self.t += 1
        b1, b2 = (beta_hat(beta, self.t) for beta in self.betas)
        m, n = G.shape
        self.r = b2 * (0 if self.r is None else self.r) + (1 - b2) * (G**2 + self.eps) @ np.ones(n)
        self.s = b2 * (0 if self.s is None else self.s) + (1 - b2) * (G**2 + self.eps).T @ np.ones(
            m
        )
        V = np.outer(self.r, self.s) / (np.ones(m) @ self.r)
        U = clip(G / np.sqrt(V))
        if not self.momentum:
            return U
        self.M = b1 * (0 if self.M is None else self.M) + (1 - b1) * U
        return self.M

    def rotate(self, R, S):
        self.r, self.s = R**2 @ self.r, S**2 @ self.s
        if self.momentum:
            self.M = R @ self.M @ S.T

    def reset(self):
        self.M = self.r = self.s = None
        self.t = 0


class Hfac:
    """Paper 1, algorithm 3."""

    def __init__(self, betas=(0.9, 0.999), eps=1e-30):
        self.betas, self.eps = betas, eps
        self.reset()

    def step(self, G):
        self.t += 1
        b1, b2 = (beta_hat(beta, self.t) for beta in self.betas)
        m, n = G.shape
        ones_m, ones_n = np.ones(m), np.ones(n)
        if self.u is None:
            self.u, self.v, self.r, self.s = np.zeros(m), np.zeros(n), np.zeros(m), np.zeros(n)
        self.u = b1 * self.u + (1 - b1) * G @ ones_n / n
        self.v = b1 * self.v + (1 - b1) * G.T @ ones_m / m
        self.r = b2 * self.r + (1 - b2) * (G**2 + self.eps) @ ones_n
        self.s = b2 * self.s + (1 - b2) * (G**2 + self.eps).T @ ones_m
        V = np.outer(self.r, self.s) / (ones_m @ self.r)
        phi = b1 * (np.outer(self.u, ones_n) - G @ np.outer(ones_n, ones_n) / n)
        phi = phi / np.sqrt(np.outer(self.r, ones_n) / n)
        psi = b1 * (np.outer(ones_m, self.v) - np.outer(ones_m, ones_m) @ G / m)
        psi = psi / np.sqrt(np.outer(ones_m, self.s) / m)
        return 0.5 * (phi + psi) + clip(G / np.sqrt(V))

    def rotate(self, R, S):
        self.u, self.r = R @ self.u, R**2 @ self.r
        self.v, self.s = S @ self.v, S**2 @ self.s

    def reset(self):
        self.u = self.v = self.r = self.s = None
        self.t = 0


class Lion:
    """Paper 0, example 2.1 with K the l1 norm."""

    def __init__(self, betas=(0.9, 0.99)):
        self.betas, self.M = betas, 0.0

    def step(self, G):
        b1, b2 = self.betas
        N = (1 - b1) * G + b1 * self.M
        self.M = (1 - b2) * G + b2 * self.M
        return np.sign(N)


class Momentum:
    """Paper 0, example 2.1."""

    def __init__(self, beta=0.9):
        self.beta, self.M = beta, 0.0

    def step(self, G):
        self.M = (1 - self.beta) * G + self.beta * self.M
        return self.M


class Sgd:
    """Paper 0, example 2.1."""

    def step(self, G):
        return G


MOMENTS = {
    "adam": lambda eps: Adam(eps=eps),
    "adafactor": lambda eps: Adafactor(momentum=True, eps=eps),
    "adafactor-nomom": lambda eps: Adafactor(momentum=False, eps=eps),
    "hfac": lambda eps: Hfac(eps=eps),
    "lion": lambda eps: Lion(),
    "momentum": lambda eps: Momentum(),
    "sgd": lambda eps: Sgd(),
}


def online_pca_loss_gradient(P, G, weight):
    """Gradient of paper 0's eq. 6 from the dense m x m matrices, term by term."""
    A = (G / np.linalg.norm(G)) @ (G / np.linalg.norm(G)).T
    identity = np.eye(P.shape[1])
    reconstruction = 2 * (P @ P.T @ A @ P + A @ P @ P.T @ P) - 4 * A @ P
    return reconstruction + 4 * weight * P @ (P.T @ P - identity)


class OnlinePca:
    """P of paper 0, algorithm 1, line 4, with eps^P = alpha eps^W of its remark."""

    def __init__(self, P, optimizer, weight=0.1, ratio=5.0):
        self.P, self.weight, self.ratio = P, weight, ratio
        self.adam = Adam() if optimizer == "adam" else None

    def follow(self, G, lr, decay):
        D = online_pca_loss_gradient(self.P, G, self.weight)
        if self.adam is not None:
            D = self.adam.step(D)
        self.P = self.P - self.ratio * lr * (D + decay * self.P)
