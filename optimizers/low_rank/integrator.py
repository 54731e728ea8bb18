"""Dynamical low-rank training as pure functions: bases, the Galerkin start, truncation, momentum, moments across bases.

Legend: W = U S V^T, m x n; U m x q, S q x q, V n x q; a and b the widths of augmented bases, at most 2 q.
Source: Hnatiuk et al. 2024, Stochastic Aspects of Dynamical Low-Rank Approximation in the Context of Machine Learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from subopt.errors import OptionError

from ..bases.completion import orthonormal_factor, solver_rounding
from ..options import Options, choice, number, rank_field, whole
from ..state import low_bit
from ..state.layout import Layout
from ..updates.basis import State
from ..updates.elementwise import MOMENTS, MomentOptions, Moments


def orth(A: Tensor) -> Tensor:
    """Return an orthonormal basis whose span contains A's columns (all of them where A is m x k, k <= m).

    The Q of A = Q R with R's diagonal non-negative, so that a basis that is orthonormal already comes back as it is.
    A rank-deficient A gets directions beside its own, as many as it has columns; see `completion.completed`.
    """
    lengths = torch.linalg.vector_norm(A, dim=0)
    return orthonormal_factor(A, solver_rounding(A.dtype) * lengths)


def augmented(U: Tensor, step: Tensor) -> Tensor:
    """Return Ua = orth[U | N], the basis of algorithm 3.1's K-step (or L-step) with step N.

    Its span is that of [K1 | U]: K1 = U S - h N, and U S is in the span of U. Taking N itself loses no digits to that
    difference, and does not depend on h. U comes first, so the first q columns are U (equation 3.7).
    """
    return orth(torch.cat([U, step], dim=1))


def galerkin_start(
    factors: tuple[Tensor, Tensor, Tensor], Ua: Tensor, Va: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return S0 = M S N^T, M = Ua^T U and N = Va^T V: W in the new bases (algorithm 3.1, before the S-step)."""
    U, S, V = factors
    M, N = Ua.mT @ U, Va.mT @ V
    return M @ S @ N.mT, M, N


def kept_rank(sigma: Tensor, tau: float, truncation: str, limit: int) -> Tensor:
    """Return the smallest rank whose cut tail has a root sum of squares of at most theta, as a 0-d tensor.

    theta = tau ||sigma|| ("relative", as Schotthoefer et al. 2022) or tau itself ("absolute", algorithm 3.1). At least
    1, at most `limit`, which cuts more than theta where it binds. Differs from the paper: theta is never below the
    rounding of sigma_1 (number of values times epsilon), or directions that a zero gradient left arbitrary would
    count at tau = 0.

    Args:
        sigma: Singular values, not increasing.
        tau: Tolerance, >= 0.
        truncation: "relative" or "absolute".
        limit: Largest rank allowed.
    """
    largest = sigma[0].clamp_min(torch.finfo(sigma.dtype).tiny)
    scaled = sigma / largest  # squares of 1e-30 would underflow
    tails = scaled.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[j]: what rank j leaves out
    theta = tau * tails[0] if truncation == "relative" else tau / largest
    rounding = len(sigma) * torch.finfo(sigma.dtype).eps
    return (tails > theta.clamp_min(rounding)).sum().clamp(1, limit)


def unified_momentum(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """X <- mu X + G; step lambda G + (1 - lambda + lambda mu) X: heavy ball at lambda 0, Nesterov at 1.

    mu is the first of `betas`, lambda `nesterov_weight`, 0 <= lambda <= 1 / (1 - mu). The two are torch.optim.SGD's,
    under learning rates that change too: h multiplies the step, where equation 5.24 takes it into X.
    """
    del t
    mu, weight = options["betas"][0], options["nesterov_weight"]
    X = state["exp_avg"].to(G.dtype).mul(mu).add_(G)
    state["exp_avg"].copy_(X)
    return X.mul_(1 - weight + weight * mu).add_(G, alpha=weight)


INTEGRATORS: dict[str, Moments] = {
    "sgd": MOMENTS["sgd"],
    "momentum": Moments(
        name="momentum", function=unified_momentum, keeps=("exp_avg",), flops_per_element=6
    ),
    "adam": MOMENTS["adam"],
}


@dataclass(frozen=True)
class LowRankOptions(MomentOptions):
    """What low-rank layers have."""

    rank: float | None = rank_field()
    max_rank: float | None = rank_field(
        meaning="largest rank of a low-rank layer; none: where its factors are as large as the dense weight"
    )
    rank_mode: str = choice(
        "adaptive",
        ("adaptive", "fixed", "frozen"),
        "low-rank layers: ranks adapt, or stay, or the bases stay too and only the cores S train",
    )
    tau: float = number(
        0.1, 0, 1e6, "tolerance of the truncation that ends a low-rank layer's step"
    )
    truncation: str = choice(
        "relative",
        ("relative", "absolute"),
        "whether tau is a share of the norm of S or a norm itself",
    )
    integrator: str = choice("adam", INTEGRATORS, "what steps the factors of low-rank layers")
    nesterov_weight: float = number(
        0.0, 0, 1e6, "lambda of unified momentum, up to 1 / (1 - mu): 0 heavy ball, 1 Nesterov"
    )
    settle_steps: int = whole(
        0, 0, "steps without a change of any rank after which only the cores train; 0: never"
    )

    def check(self) -> None:
        """Refuse a momentum that would turn uphill, and moments whose size cannot change."""
        mu = self.betas[0]
        if self.nesterov_weight * (1 - mu) > 1:
            raise OptionError(
                f"Invalid nesterov_weight: {self.nesterov_weight}; with momentum {mu} "
                f"it is at most 1 / (1 - momentum) = {1 / (1 - mu):g}"
            )
        if self.state_dtype == low_bit.STATE_DTYPE:
            raise OptionError(
                "low-rank layers cannot keep their moments in 8-bit blocks: their size changes with the rank",
                "use state_dtype bf16",
            )


def carried(
    moments: State, layout: Layout, rows: Tensor | None, columns: Tensor | None
) -> dict[str, Tensor]:
    """Return moments in new bases, of another size where the rank has changed.

    With R = U_new^T U_old on rows and C = V_new^T V_old on columns: first moments X <- R X C^T, second moments
    X <- (R*R) X (C*C)^T (elementwise squares), which stay non-negative. What lies outside the new bases is lost, and
    directions that are new start at zero. K's moments live in V's columns, L's in U's, S's in both.

    Args:
        moments: By name; not modified.
        layout: Their slots, for the powers; everything it does not name is left out.
        rows: R, or None where the rows stay.
        columns: C, or None where the columns stay.
    """
    result = {}
    for name, slot in layout.items():
        X = moments[name]
        wide = next((R for R in (rows, columns) if R is not None), X).dtype
        moved = X.to(wide)
        for R, is_rows in ((rows, True), (columns, False)):
            if R is not None:
                map_ = R if slot.power == 1 else R.square()
                moved = map_ @ moved if is_rows else moved @ map_.mT
        result[name] = moved.to(X.dtype)
    return result


def augmented_moments(
    moments: Mapping[str, State], layout: Layout, Ua: Tensor, Va: Tensor
) -> dict[str, Tensor]:
    """Return S's moments in the bases Ua = [U | U+] and Va = [V | V+], before the gradient there is taken in.

    K's moments know the block of U+ and V, L's that of U and V+: averages of gradients G are X_K = avg(G) V and X_L =
    avg(G)^T U, so that X = [[X_S, X_L^T V+], [U+^T X_K, 0]]; second moments by the elementwise squares of U+ and V+.
    Without this the bases would turn at the speed of plain gradient descent, whatever the momentum.

    Args:
        moments: Those of the factors by name, as they were before this step.
        layout: Their slots, for the powers.
        Ua: m x a.
        Va: n x b.
    """
    result = {}
    for name, slot in layout.items():
        X_K, X_S, X_L = (moments[factor][name].to(Ua.dtype) for factor in ("U", "S", "V"))
        q = X_S.shape[0]
        new_U, new_V = Ua[:, q:], Va[:, q:]
        if slot.power == 2:
            new_U, new_V = new_U.square(), new_V.square()
        X = X_S.new_zeros(Ua.shape[1], Va.shape[1])
        X[:q, :q] = X_S
        X[q:, :q] = new_U.mT @ X_K
        X[:q, q:] = X_L.mT @ new_V
        result[name] = X
    return result


def truncated(
    S: Tensor, tau: float, truncation: str, limit: int, usable: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return P, sigma and Q of S = P diag(sigma) Q^T cut to its kept rank, or None where `usable` is false.

    Waits for the device once. Under fake tensors, whose values are unknown, the rank is the largest possible.

    Raises:
        torch.linalg.LinAlgError: The decomposition did not converge.
    """
    P, sigma, Qh = torch.linalg.svd(S, full_matrices=False)
    if isinstance(S, FakeTensor):
        rank = min(len(sigma), limit)
    else:
        rank = int(torch.where(usable, kept_rank(sigma, tau, truncation, limit), 0))
        if rank == 0:
            return None
    return P[:, :rank], sigma[:rank], Qh[:rank].mT


def chosen(
    usable: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the new tensors where `usable` is true, the old ones where not, without waiting for the device."""
    return {name: torch.where(usable, value, old[name]) for name, value in new.items()}
