"""Whether a diagonal preconditioner, in some basis, steps where the full one would: cosines on held-out gradients.

With C = (1/F) sum_k g_k g_k^T over F gradients and eps = tr(C) / (mn), the full step is (C + eps I)^(-1/2) g, and the
diagonal one (diag C + eps)^(-1/2) g in the coordinates of its basis. C has rank F at most, so that the full step is
eps^(-1/2) g plus a combination of the g_k, whose coefficients come from F x F inner products: exact, C never built.
Both steps are compared where the diagonal one is taken, since a rotation leaves cosines alone.

A held-out gradient is mostly outside the span of a few others, and what is outside is scaled by eps^(-1/2) in the full
step: a small eps would measure that part alone. Therefore eps is the mean of C's diagonal, and cosines within the span
stand beside those of the whole steps. No paper has this measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..record.profile import Agreement

# Directions of C below this share of its largest eigenvalue are rounding.
_SPAN_FLOOR = 1e-12


def fit_count(count: int) -> int:
    """How many of K gradients C is made of, from the first: all but the last quarter, which holds at least one."""
    return count - max(1, count // 4)


class AgreementMeter:
    """Takes in K gradients block by block, in one basis after the other.

    Args:
        products: Their K x K inner products, float64, in units of `unit`^2; K at least 2.
        coordinates: mn.
        unit: What the blocks are divided by.

    Memory: (K / 4) K numbers per basis.
    """

    def __init__(self, products: Tensor, coordinates: int, unit: float) -> None:
        self._products = products
        self._fitted = fit_count(len(products))
        self._eps = float(products.diag()[: self._fitted].mean()) / coordinates
        self._unit = unit
        # By basis: inner products of the H diagonal steps d_h with all K gradients (H x K), and with themselves (H).
        self._inner: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def add(self, basis: str, block: Tensor, squares: Tensor) -> None:
        """Add some coordinates of all K gradients (K x s) and their squares."""
        diagonal = squares[: self._fitted].mean(0)
        steps = block[self._fitted :] * (diagonal + self._eps).rsqrt()
        inner = (steps @ block.mT).cpu().double()
        own = steps.square().sum(1).cpu().double()
        self._inner[basis] = self._inner.get(basis, 0) + inner
        self._squares[basis] = self._squares.get(basis, 0) + own

    def result(self) -> Agreement:
        """Return the mean cosines of every basis seen."""
        full = full_steps(self._products, self._fitted, self._eps)
        cosine, in_span = {}, {}
        for basis, inner in self._inner.items():
            cosine[basis] = float(_cosines(inner, self._squares[basis], full).mean())
            within = _cosines_in_span(inner, full)
            if len(within) > 0:
                in_span[basis] = float(within.mean())
        return Agreement(
            cosine=cosine,
            in_span=in_span,
            share_outside=float(full.share_outside.mean()),
            eps=self._eps * self._unit**2,
        )


@dataclass(frozen=True)
class FullSteps:
    """(C + eps I)^(-1/2) g for H held-out gradients g, in terms of them and of the F gradients g_k that C is made of.

    With C = U diag(lambda) U^T, lambda > 0, the step is own g + sum_k coefficients[h, k] g_k.

    Attributes:
        own: eps^(-1/2).
        coefficients: H x F.
        squares: Squared norms of the steps, H.
        span: F x R, so that the columns of [g_1 .. g_F] span are U.
        in_span: U^T times the steps, H x R.
        share_outside: 1 - |U^T g|^2 / |g|^2, H.
    """

    own: float
    coefficients: Tensor
    squares: Tensor
    span: Tensor
    in_span: Tensor
    share_outside: Tensor


def full_steps(products: Tensor, fitted: int, eps: float) -> FullSteps:
    """Solve for the full steps of all gradients after the first F.

    With A = [g_1 .. g_F]^T / sqrt(F) and A A^T = V diag(lambda) V^T, the right singular vectors U = A^T V lambda^(-1/2)
    are C's eigenvectors, and (C + eps I)^(-1/2) = eps^(-1/2) I + A^T V diag(f) V^T A,
    f = [rho^(-1) - eps^(-1/2)] / lambda = -1 / (eps^(1/2) rho (eps^(1/2) + rho)),  rho = (lambda + eps)^(1/2),
    which stays finite where lambda is zero.

    Args:
        products: K x K inner products of the gradients, float64.
        fitted: F, less than K.
        eps: Positive.
    """
    gram = products[:fitted, :fitted] / fitted
    cross = products[fitted:, :fitted] / fitted**0.5  # rows A g
    energy = products.diag()[fitted:]
    values, V = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    root = (values + eps).sqrt()
    f = -1 / (eps**0.5 * root * (eps**0.5 + root))
    coefficients = (cross @ V * f) @ V.mT / fitted**0.5
    kept = values > _SPAN_FLOOR * values[-1]
    inside = (cross @ V)[:, kept] * values[kept].rsqrt()  # rows U^T g
    outside = (energy - inside.square().sum(1)).clamp_min(0)
    in_span = inside / root[kept]
    return FullSteps(
        own=eps**-0.5,
        coefficients=coefficients,
        squares=outside / eps + in_span.square().sum(1),
        span=V[:, kept] * values[kept].rsqrt() / fitted**0.5,
        in_span=in_span,
        share_outside=outside / energy,
    )


def _cosines(inner: Tensor, squares: Tensor, full: FullSteps) -> Tensor:
    """<d_h, full_h> / (|d_h| |full_h|) for every held-out gradient."""
    fitted = len(full.span)
    own = inner[:, fitted:].diagonal()
    spanned = (full.coefficients * inner[:, :fitted]).sum(1)
    return (full.own * own + spanned) / (squares * full.squares).sqrt()


def _cosines_in_span(inner: Tensor, full: FullSteps) -> Tensor:
    """The same between U^T d_h and U^T full_h, for those held-out gradients that have a part in the span."""
    steps = inner[:, : len(full.span)] @ full.span
    norms = torch.linalg.vector_norm(steps, dim=1) * torch.linalg.vector_norm(full.in_span, dim=1)
    cosines: Tensor = (steps * full.in_span).sum(1) / norms
    return cosines[norms > 0]
