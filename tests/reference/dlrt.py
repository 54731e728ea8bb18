"""Dynamical low-rank training in float64 NumPy, written from Hnatiuk et al. 2024: algorithm 3.1 and equation 5.24.

One layer, W = U S V^T; `gradient(W)` is the dense gradient by W, which only a reference may form. h is the step size.
"""

import numpy as np


class Sgd:
    """The explicit Euler step of dX/dt = -g."""

    def __init__(self, shape):
        self.moments = []

    def step(self, g, t):
        return g


class UnifiedMomentum:
    """Equation 5.24 with h outside X: X = mu X + g, step lambda g + (1 - lambda + lambda mu) X."""

    mu, weight = 0.9, 0.7

    def __init__(self, shape):
        self.moments = [(np.zeros(shape), 1)]

    def step(self, g, t):
        X = self.mu * self.moments[0][0] + g
        self.moments = [(X, 1)]
        return self.weight * g + (1 - self.weight + self.weight * self.mu) * X


class Adam:
    """Kingma and Ba 2015, with bias correction by division."""

    b1, b2, eps = 0.9, 0.999, 1e-8

    def __init__(self, shape):
        self.moments = [(np.zeros(shape), 1), (np.zeros(shape), 2)]

    def step(self, g, t):
        (M, _), (V, _) = self.moments
        # What is kept is the corrected average, so that moments of any age mean the same.
        M = (self.b1 * (1 - self.b1 ** (t - 1)) * M + (1 - self.b1) * g) / (1 - self.b1**t)
        V = (self.b2 * (1 - self.b2 ** (t - 1)) * V + (1 - self.b2) * g**2) / (1 - self.b2**t)
        self.moments = [(M, 1), (V, 2)]
        return M / (np.sqrt(V) + self.eps)


class Dlrt:
    """Algorithm 3.1 with the integrator of choice; `adaptive` says whether the rank is."""

    def __init__(self, U, S, V, integrator, h, adaptive, tau=0.0, limit=None):
        self.U, self.S, self.V = U, S, V
        self.h, self.adaptive, self.tau, self.limit, self.t = h, adaptive, tau, limit, 0
        self.K, self.L = integrator((U @ S).shape), integrator((V @ S.T).shape)
        self.core = integrator(S.shape)

    @property
    def W(self):
        return self.U @ self.S @ self.V.T

    def step(self, gradient):
        self.t += 1
        U, S, V = self.U, self.S, self.V
        q = len(S)
        K_before, L_before = list(self.K.moments), list(self.L.moments)
        G = gradient(U @ S @ V.T)
        K1 = U @ S - self.h * self.K.step(G @ V, self.t)
        L1 = V @ S.T - self.h * self.L.step(G.T @ U, self.t)
        if self.adaptive:
            K1, L1 = np.hstack([U, K1]), np.hstack([V, L1])
        Ua, _ = np.linalg.qr(K1)
        Va, _ = np.linalg.qr(L1)
        M, N = Ua.T @ U, Va.T @ V
        S0 = M @ S @ N.T
        self.core.moments = [
            (self.tangent(X, X_K, X_L, Ua, Va, M, N, power, q), power)
            for (X, power), (X_K, _), (X_L, _) in zip(
                self.core.moments, K_before, L_before, strict=True
            )
        ]
        G = gradient(Ua @ S0 @ Va.T)
        Sa = S0 - self.h * self.core.step(Ua.T @ G @ Va, self.t)
        if self.adaptive:
            P, sigma, Qt = np.linalg.svd(Sa)
            r = self.rank(sigma)
            P, Q = P[:, :r], Qt[:r].T
            self.U, self.S, self.V = Ua @ P, np.diag(sigma[:r]), Va @ Q
            self.core.moments = [(m(P.T, p) @ X @ m(Q, p), p) for X, p in self.core.moments]
        else:
            self.U, self.S, self.V = Ua, Sa, Va
        self.K.moments = [(X @ m(V.T @ self.V, p), p) for X, p in self.K.moments]
        self.L.moments = [(X @ m(U.T @ self.U, p), p) for X, p in self.L.moments]

    def tangent(self, X, X_K, X_L, Ua, Va, M, N, power, q):
        """S's moments in the new bases; at an adaptive rank with what K's and L's know of new columns."""
        if not self.adaptive:
            return m(M, power) @ X @ m(N.T, power)
        full = np.zeros((Ua.shape[1], Va.shape[1]))
        # qr may have turned U's columns round, one by one
        full[:q, :q] = m(M[:q], power) @ X @ m(N[:q].T, power)
        full[q:, :q] = m(Ua[:, q:].T, power) @ X_K @ m(N[:q].T, power)
        full[:q, q:] = m(M[:q], power) @ X_L.T @ m(Va[:, q:], power)
        return full

    def rank(self, sigma):
        theta = self.tau * np.sqrt(np.sum(sigma**2))
        r = len(sigma)
        while r > 1 and np.sqrt(np.sum(sigma[r - 1 :] ** 2)) <= theta:
            r -= 1
        return min(r, self.limit or r)


def m(R, power):
    """The map of first moments, or of second ones: its elementwise square."""
    return R if power == 1 else R**2
