"""Accumulated eigenbases: running averages of G G^T and G^T G, and a basis that follows their eigenvectors.

Legend: G m x n gradient, m <= n; C a side's covariance (m x m on the left, n x n on the right); P its basis.
Moments live in the basis and are carried over at a refresh only: the authors' code takes the first moment out of the
old basis and back into the new one at every step, though the basis changes at one in ten.

Differs from the authors' code: a convolution is one matrix, out x (in * kernel), with two sides instead of four; eps
is added to the bias-corrected root, as torch does; weights decay before the step; first bases are solved in float64.
Source: Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam, algorithm 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..options import Options
from ..updates.averages import debiased
from ..updates.basis import State
from .completion import orthonormal_factor, solver_rounding
from .decompositions import gram_basis


class FittedBasis(NamedTuple):
    """A new basis.

    Attributes:
        basis: Orthonormal columns, largest energy first.
        order: The old columns from largest to smallest energy p^T C p under the new covariance; None for a first basis,
            and for one not fitted to averages.
    """

    basis: Tensor
    order: Tensor | None = None


def covariances(G: Tensor, sides: int) -> dict[str, Tensor]:
    """Return G G^T as "left" and, with two sides, G^T G as "right"."""
    left = {"left": G @ G.mT}
    return left | {"right": G.mT @ G} if sides == 2 else left


def take_in(state: State, G: Tensor, sides: int, t: int, options: Options) -> None:
    """Average this gradient's covariances into the state's, with decay `covariance_beta` or else the moments' beta2.

    The averages are bias-corrected. Whether they are makes no difference to any basis: it is one factor on all of C,
    and neither eigenvectors nor the QR of C P know it.
    """
    beta = options["covariance_beta"]
    beta_t = debiased(options["betas"][1] if beta is None else beta, t)
    for side, X in zip(("left", "right")[:sides], (G, G.mT), strict=False):
        average_gram(state[f"covariance_{side}"], X, beta_t, 1 - beta_t)


def first_fit(C: Tensor, rank: int | None) -> FittedBasis:
    """Return the leading eigenvectors of a covariance.

    Raises:
        torch.linalg.LinAlgError: `eigh` does not converge.
    """
    return FittedBasis(gram_basis(C, rank))


def refit(C: Tensor, old: Tensor, solver: str) -> FittedBasis:
    """Return a basis that is closer to C's eigenvectors than the old one, of the same width.

    "exact" takes the eigenvectors anew. "power" takes one step of the power method on all of them at once: the old
    columns in order of their energy p^T C p, then the Q of C P = Q R, completed where C P is of lower rank. It takes a
    half (m = 200) to a third (m = 1,000) of the eigenvectors' time on a CPU; repeated, it converges at the ratios of
    neighbouring eigenvalues.

    Raises:
        torch.linalg.LinAlgError: The exact decomposition does not converge.
    """
    # (C P)^T: columns of C P lie in a row each, as they are picked, and as LAPACK takes them.
    rows = old.mT @ C
    order = (old.mT * rows).sum(1).argsort(descending=True, stable=True)
    if solver == "exact":
        return FittedBasis(gram_basis(C, old.shape[1]), order)
    noise = solver_rounding(C.dtype) * torch.linalg.matrix_norm(rows)
    return FittedBasis(orthonormal_factor(rows[order].mT, noise), order)


def side_flops(size: int, width: int, solver: str) -> float:
    """Return the arithmetic of one `refit` of a (size, width) basis."""
    product = 2 * size * size * width
    if solver == "exact":
        # A symmetric eigendecomposition with vectors: about 9 m^3 (Golub and Van Loan, section 8.3).
        return product + 9 * size**3
    # Householder QR and its Q formed: 4 m r^2 - 4 r^3 / 3 (the same, section 5.2).
    return product + 4 * size * width**2 - 4 * width**3 / 3


# Rows of C computed at once. On two cores, 1376 x 1376 of X 1376 x 512: 12.2 ms as a product and an average, 8.6 ms in
# strips of 256, 9.8 ms of 512; below 512 rows there is nothing to gain.
STRIP_ROWS = 256


def average_gram(C: Tensor, X: Tensor, old: float, new: float) -> None:
    """Update C <- old C + new X X^T in X's precision.

    On a CPU only the lower triangle is computed, a strip of rows up to its diagonal block at a time, and copied over:
    little more than half the arithmetic where there are many strips.

    Args:
        C: Shape (m, m), of any dtype; modified.
        X: Shape (m, n), of the dtype of computation.
        old: The weight of what C holds.
        new: The weight of X X^T.

    Memory: transient, C in X's precision and its update where the dtypes differ; otherwise nothing.
    """
    wide = C.to(X.dtype)
    strip = STRIP_ROWS if C.device.type == "cpu" else len(C)
    for start in range(0, len(C), strip):
        rows = slice(start, start + strip)
        wide[rows, : rows.stop].addmm_(X[rows], X[: rows.stop].mT, beta=old, alpha=new)
        wide[:start, rows] = wide[rows, :start].mT
    if wide is not C:
        C.copy_(wide)
