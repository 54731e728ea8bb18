"""Online PCA: a rank-r basis that descends one step per gradient instead of being decomposed anew.

Legend: G m x n gradient, m <= n; P m x r basis; Gn = G / ||G||_F.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .averages import average, average_square, debiased
from .bases import Options, State, resolve_rank
from .decompositions import canonical_signs, left_basis
from .flops import Flops
from .slots import Layout, Slot

# With Adam on P, lr_P = 5 lr_W of the paper overshoots above this: ||P^T P - I|| reached 22 at r = 128, lr_W = 0.01.
ADAM_LR_CAP = 0.01
# Gradient descent on P is stable below 1 / (4 (e1 + lambda)), e1 <= 1 the top energy share; times lr / peak lr.
SGD_LR = 0.2
_BETAS = (0.9, 0.999)
_EPS = 1e-8


def pca_gradient(P: Tensor, G: Tensor, ortho_weight: float = 0.1) -> Tensor:
    """Return the gradient in P of L(P) = ||P P^T Gn - Gn||^2 + lambda ||P^T P - I||^2, in closed form.

    X = Gn^T P, Y = Gn X, S = P^T Y, N = P^T P;  dL/dP = 2 P S + 2 Y N - 4 Y + 4 lambda P (N - I).
    Two thin products with G and nothing n x n or m x m, about 4 m n r FLOPs.

    Args:
        P: Basis, shape (m, r); orthonormal or not.
        G: Gradient, shape (m, n), not all zero.
        ortho_weight: lambda.

    Returns:
        Gradient, shape (m, r).

    Source: Liang et al. 2024, eq. 6.
    """
    norm = torch.linalg.vector_norm(G)
    return _gradient(P, G, P.mT @ G, norm, ortho_weight)


def _gradient(P: Tensor, G: Tensor, projected: Tensor, norm: Tensor, ortho_weight: float) -> Tensor:
    """The same, given P^T G, which the optimizer has anyway."""
    Y = G @ (projected.mT / norm) / norm
    S = P.mT @ Y
    N = P.mT @ P
    excess = N - torch.eye(N.shape[0], dtype=N.dtype, device=N.device)
    return 2 * (P @ S) + 2 * (Y @ N) - 4 * Y + 4 * ortho_weight * (P @ excess)


class OnlinePCA:
    """Rank-r basis moved by one step of SGD or Adam on eq. 6 after every gradient; projects and lifts with P_t.

    P starts as the first usable gradient's r leading singular vectors, where eq. 6 has no slope: Adam would
    blow that step's rounding error up to whole units, so P first moves at the next one. Then
    P <- P - lr_P (D + lambda_W P), D the gradient above or Adam's step on it, its t counted from the start of
    P. A zero or non-finite gradient leaves P alone.

    Differs from the paper: lr_P = alpha lr_W (alpha 5) is capped for Adam and replaced for SGD, see the constants; an
    optional QR retraction every `retract_every` steps. Source: Liang et al. 2024, algorithm 1.

    Memory: m r numbers in the basis dtype, 3 m r with Adam. Transient about 3 m r + 2 n r.
    """

    short_first = True

    def layout(self, m: int, n: int, options: Options) -> Layout:
        """Return P, Adam's moments of P, and the counters."""
        r, _ = self.coordinates(m, n, options)
        layout = {
            "fitted_at": Slot((), "count"),
            "kept_bases": Slot((), "count"),
            "basis_left": Slot((m, r), "basis", identity=True),
        }
        if options["basis_optimizer"] == "adam":
            layout["basis_exp_avg"] = Slot((m, r), "basis")
            layout["basis_exp_avg_sq"] = Slot((m, r), "basis")
        return layout

    def coordinates(self, m: int, n: int, options: Options) -> tuple[int, int]:
        """Return (r, n)."""
        return resolve_rank(options["rank"], m) or m, n

    def flops(self, m: int, n: int, options: Options) -> Flops:
        """Return projection, lift and the PCA step; the first decomposition happens once and is not amortised."""
        r, _ = self.coordinates(m, n, options)
        step = 4 * m * n * r + 2 * m * n * r + 10 * m * r * r + 12 * m * r
        return Flops(step, 0, step)

    def prepare(self, state: State, G: Tensor, usable: Tensor, t: int, options: Options) -> None:
        """Start P at the first usable gradient."""
        if int(state["fitted_at"]) > 0:
            return
        if not isinstance(G, FakeTensor) and not bool(usable):
            state["kept_bases"].add_(1)
            return
        r = state["basis_left"].shape[1]
        state["basis_left"].copy_(canonical_signs(left_basis(G, r)))
        state["fitted_at"].fill_(t)

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return P^T G."""
        return state["basis_left"].to(G.dtype).mT @ G

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return P N."""
        return state["basis_left"].to(step.dtype) @ step

    def follow(
        self, state: State, G: Tensor, projected: Tensor, usable: Tensor, t: int, options: Options
    ) -> None:
        """Move P one step down eq. 6."""
        age = t - int(state["fitted_at"])
        if age in {0, t}:  # fitted on this very gradient, or never
            return
        P = state["basis_left"].to(G.dtype)
        norm = torch.linalg.vector_norm(G)
        # A gradient may be usable and still too small to square.
        usable = usable & (norm > 0)
        norm = torch.where(usable, norm, 1.0)
        D = _gradient(P, G, projected, norm, options["ortho_weight"])
        D = torch.where(usable, D, 0.0)
        lr: float | Tensor = options["lr"]
        if options["basis_optimizer"] == "adam":
            beta1, beta2 = debiased(_BETAS[0], age), debiased(_BETAS[1], age)
            M = average(state["basis_exp_avg"], D, beta1)
            V = average_square(state["basis_exp_avg_sq"], D, beta2)
            D = M / (V.sqrt() + _EPS)
            lr_P = _minimum(options["basis_lr_ratio"] * lr, ADAM_LR_CAP)
        else:
            lr_P = SGD_LR * _share_of_peak(lr, options.get("initial_lr", lr))
        step = (D + options["weight_decay"] * P) * lr_P
        moved = P - torch.where(usable, step, 0.0)
        if options["retract_every"] and t % options["retract_every"] == 0:
            moved = orthonormalised(moved)
        state["basis_left"].copy_(moved)


def orthonormalised(P: Tensor) -> Tensor:
    """Return the orthonormal factor of P = QR with a positive diagonal of R, shape (m, r)."""
    Q: Tensor
    Q, R = torch.linalg.qr(P)
    return Q * torch.where(R.diagonal() < 0, -1.0, 1.0).to(P.dtype)


def _share_of_peak(lr: float | Tensor, peak: float | Tensor) -> float | Tensor:
    """The schedule's factor, at most 1; torch's schedulers record the rate that they scale as `initial_lr`."""
    if isinstance(peak, Tensor):
        return _minimum(lr / peak, 1.0)
    return _minimum(lr / peak, 1.0) if peak > 0 else 0.0


def _minimum(value: float | Tensor, cap: float) -> float | Tensor:
    return torch.clamp(value, max=cap) if isinstance(value, Tensor) else min(value, cap)
