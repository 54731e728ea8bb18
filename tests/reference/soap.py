"""A slow float64 SOAP, written from the paper's algorithm (Vyas et al. 2024, algorithm 3), with its variants.

W is m x n with m <= n; the caller transposes tall matrices. Averages are plain ones here, as in the paper, started at
zero; Adam's are divided by 1 - beta^t. The very first bases are handed in: the covariance of one gradient has ties
(its null space), which any two solvers break differently. Every later basis is computed here.
"""

import numpy as np


def orthonormal_columns(A):
    """Gram-Schmidt, column by column, twice for rounding: the Q of a QR decomposition with positive diagonal."""
    Q = np.zeros_like(A)
    for j in range(A.shape[1]):
        v = A[:, j].copy()
        for _ in range(2):
            for i in range(j):
                v -= (Q[:, i] @ v) * Q[:, i]
        Q[:, j] = v / np.sqrt(v @ v)
    return Q


def without_rounding(X):
    """Coordinates in a basis, with those at 0 that are rounding: the paper's projections are exact."""
    return np.where(np.abs(X) > 64 * np.finfo(float).eps * np.linalg.norm(X), X, 0.0)


class Side:
    """One side's covariance C and eigenbasis Q; a side that is left alone has Q = I for good."""

    def __init__(self, size, first_basis, beta):
        self.is_active = first_basis is not None
        self.C, self.Q, self.beta = np.zeros((size, size)), np.eye(size), beta
        self.first_basis = first_basis

    def take_in(self, S):
        self.C = self.beta * self.C + (1 - self.beta) * S

    def start(self):
        if self.is_active:
            self.Q = self.first_basis

    def refresh(self, solver):
        """Move Q; return the map from old to new coordinates and the permutation of the old vectors' energies."""
        size = len(self.C)
        if not self.is_active:
            return np.eye(size), np.eye(size)
        energies = [self.Q[:, j] @ self.C @ self.Q[:, j] for j in range(size)]
        order = sorted(range(size), key=lambda j: -energies[j])
        if solver == "power":
            new = orthonormal_columns(self.C @ self.Q[:, order])
        else:
            new = np.linalg.eigh(self.C)[1][:, ::-1].copy()
        for j in range(size):
            if new[:, j] @ self.Q[:, j] < 0:
                new[:, j] = -new[:, j]
        rotation = new.T @ self.Q
        self.Q = new
        return rotation, np.eye(size)[order]


class Adam:
    """The paper's inner Adam: bias corrections outside the averages."""

    def __init__(self, betas, eps):
        self.betas, self.eps = betas, eps
        self.reset()

    def reset(self):
        self.M = self.V = 0.0
        self.t = 0

    def step(self, G):
        b1, b2 = self.betas
        self.t += 1
        self.M = b1 * self.M + (1 - b1) * G
        self.V = b2 * self.V + (1 - b2) * G**2
        M_hat, V_hat = self.M / (1 - b1**self.t), self.V / (1 - b2**self.t)
        return M_hat / (np.sqrt(V_hat) + self.eps)

    def carry(self, on_refresh, second, rotations, permutations):
        if on_refresh == "reset":
            self.reset()
            return
        maps = {
            "rotate": rotations,
            "permute": permutations,
            "keep": [np.eye(len(rotation)) for rotation in rotations],
        }
        R, S = maps[on_refresh]
        self.M = R @ self.M @ S.T
        R, S = maps[second or on_refresh]
        self.V = R**2 @ self.V @ (S**2).T


class Soap:
    """SOAP of one matrix: `step(G)` returns the normalised step, or None where the parameter is not to move.

    Args:
        shape: (m, n).
        first_bases: Orthonormal (m, m) and (n, n) matrices that diagonalise the first gradient's covariances; None
            for a side that is left alone.
        moments: What steps in the rotated coordinates: `step(G)` and `carry(...)`.
        covariance_beta: Decay of the covariances.
        period: Steps taken between refreshes.
        early_refresh: Whether steps 2, 4, 8, ... below the period get new bases too.
        use_current_gradient: Whether a gradient enters covariances and basis before it is preconditioned.
        skip_first: Whether the first gradient only starts the bases.
        solver: "power" or "exact".
        on_refresh: "keep", "rotate" or "reset".
        second: "keep", "permute", "rotate", or None for what `on_refresh` says.
    """

    def __init__(
        self,
        shape,
        first_bases,
        moments,
        covariance_beta,
        period,
        early_refresh,
        use_current_gradient,
        skip_first,
        solver,
        on_refresh,
        second,
    ):
        self.left, self.right = (
            Side(size, first, covariance_beta)
            for size, first in zip(shape, first_bases, strict=True)
        )
        self.moments, self.period, self.early_refresh = moments, period, early_refresh
        self.use_current_gradient, self.skip_first = use_current_gradient, skip_first
        self.solver, self.on_refresh, self.second = solver, on_refresh, second
        self.started, self.taken = False, 0

    def take_in(self, G):
        self.left.take_in(G @ G.T)
        self.right.take_in(G.T @ G)

    def refresh(self):
        rotation, permutation = zip(
            self.left.refresh(self.solver), self.right.refresh(self.solver), strict=True
        )
        self.moments.carry(self.on_refresh, self.second, rotation, permutation)

    def is_due(self):
        """Whether the next step is to have new bases."""
        early = [2**k for k in range(1, 20) if 2**k < self.period]
        if self.early_refresh and self.taken + 1 in early:
            return True
        return self.taken > 0 and self.taken % self.period == 0

    def step(self, G):
        starts = not self.started
        is_before = starts or self.use_current_gradient
        if is_before:
            self.take_in(G)
        if starts:
            self.left.start()
            self.right.start()
            self.started = True
            if self.skip_first and (self.left.is_active or self.right.is_active):
                return None
        elif is_before and self.is_due():
            self.refresh()
        P, Q = self.left.Q, self.right.Q
        step = P @ self.moments.step(without_rounding(P.T @ G @ Q)) @ Q.T
        self.taken += 1
        if not is_before:
            self.take_in(G)
        if not self.use_current_gradient and self.is_due():
            self.refresh()
        return step
