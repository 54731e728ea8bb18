"""Moments: the step that a gradient gets in given coordinates, whichever they are. Pure updates, then their records.

Legend: G m x n gradient in the coordinates of the basis; beta_t = (beta - beta^t) / (1 - beta^t), the decay whose
moving average is the bias-corrected one (so the first average is the first value); t = 1, 2, ...
State tensors are modified in place; the returned step may be one of them and must not be modified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..flops import Flops
from ..state import low_bit
from ..state.layout import Layout, Slot
from . import fused_adam
from .averages import average, average_square, debiased
from .update import Hyper, State, WholeStep


def adam(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Adam: M = EMA[G], V = EMA[G^2], step M / (sqrt(V) + eps).

    eps stands outside the root, as in torch.optim.AdamW (paper 1's algorithm prints it inside, its ODE outside).
    Source: Kingma and Ba 2015; in rotated coordinates Nguyen et al. 2025, algorithm 1.
    """
    step = torch.zeros_like(G)
    if fused_adam.descend(step, G, state, t, {**hyper, "lr": -1.0, "weight_decay": 0.0}):
        return step
    beta1, beta2 = (debiased(beta, t) for beta in hyper["betas"])
    M = average(state["exp_avg"], G, beta1)
    return _rms_normalised(M, G, state, beta2, hyper["eps"])


def adam_without_momentum(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Adam's second moment alone: V = EMA[G^2], step G / (sqrt(V) + eps)."""
    return _rms_normalised(G, G, state, debiased(hyper["betas"][1], t), hyper["eps"])


def _rms_normalised(M: Tensor, G: Tensor, state: State, beta2: float, eps: float) -> Tensor:
    V = average_square(state["exp_avg_sq"], G, beta2)
    denominator = (V.sqrt() if V is state["exp_avg_sq"] else V.sqrt_()).add_(eps)
    return torch.div(M, denominator, out=denominator)


def adafactor_without_momentum(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Adafactor without momentum: U = G / sqrt(V) with V = r s^T / (1^T r), clipped to RMS 1.

    r = EMA[(G^2 + eps) 1_n] and s = EMA[(G^2 + eps)^T 1_m]. V is never formed: U = G * rsqrt(r / mean(r)) *
    rsqrt(s / m), because r s^T underflows float32 for small gradients. Then U / max(1, RMS(U) / clip_threshold).
    Source: Nguyen et al. 2025, algorithm 2 ("w/o momentum"); Shazeer and Stern 2018.
    """
    m, n = G.shape
    square = G.square()
    beta2 = debiased(hyper["betas"][1], t)
    r = average(state["row_sq"], square.sum(1).add_(n * hyper["eps"]), beta2)
    s = average(state["col_sq"], _column_sums(square).add_(m * hyper["eps"]), beta2)
    tiny = torch.finfo(r.dtype).tiny
    row = (r / r.mean()).clamp_min_(tiny).rsqrt_()
    column = (s / m).clamp_min_(tiny).rsqrt_()
    # ||U||^2 before there is a U: two matrix-vector products instead of two passes over m n numbers.
    rms = (torch.dot(row.square(), square @ column.square()) / G.numel()).sqrt_()
    row /= (rms / hyper["clip_threshold"]).clamp_min_(1.0)
    return torch.mul(G, row[:, None], out=square).mul_(column)


def adafactor(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Adafactor with momentum: step M = EMA[clip(G / sqrt(V))], V as without momentum.

    Source: Nguyen et al. 2025, algorithm 2.
    """
    U = adafactor_without_momentum(G, state, t, hyper)
    return average(state["exp_avg"], U, debiased(hyper["betas"][0], t))


def hfac(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Hfac: factored first and second moments, 2 (m + n) numbers.

    u = EMA[G 1_n / n], v = EMA[G^T 1_m / m], r and s as Adafactor's;
    phi = beta1_t (u - G 1_n / n) / sqrt(r / n), psi = beta1_t (v - G^T 1_m / m) / sqrt(s / m);
    step 0.5 (phi 1^T + 1 psi^T) + clip(G / sqrt(V)).
    phi + psi is not clipped in the paper and turns uphill when a coherent gradient jumps more than 2.2 times;
    `clip_momentum` clips it as the last term is. Source: Nguyen et al. 2025, algorithm 3.
    """
    beta1 = debiased(hyper["betas"][0], t)
    m, n = G.shape
    row_mean, column_mean = G.mean(1), _column_sums(G) / m
    u = average(state["row_avg"], row_mean, beta1)
    v = average(state["col_avg"], column_mean, beta1)
    step = adafactor_without_momentum(G, state, t, hyper)
    phi = (u - row_mean).mul_(beta1).div_((state["row_sq"] / n).sqrt_())
    psi = (v - column_mean).mul_(beta1).div_((state["col_sq"] / m).sqrt_())
    if hyper["clip_momentum"]:
        return step.add_(_clipped(0.5 * (phi[:, None] + psi), hyper["clip_threshold"]))
    return step.add_(phi[:, None], alpha=0.5).add_(psi, alpha=0.5)


def lion(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Lion: step sign(beta1 M + (1 - beta1) G), then M = beta2 M + (1 - beta2) G; no bias correction.

    Source: Chen et al. 2023; Liang et al. 2024, example 2.1.
    """
    del t
    beta1, beta2 = hyper["betas"]
    step = low_bit.read(state["exp_avg"], G.dtype).lerp(G, 1 - beta1).sign_()
    average(state["exp_avg"], G, beta2)
    return step


def momentum(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Momentum: step M = beta M + (1 - beta) G; no bias correction. Source: Liang et al. 2024, example 2.1."""
    del t
    return average(state["exp_avg"], G, hyper["betas"][0])


def sgd(G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
    """Plain gradient descent: step G."""
    del state, t, hyper
    return G


def _column_sums(X: Tensor) -> Tensor:
    """Return X^T 1, half the time of `sum(0)` on a CPU."""
    return X.mT @ X.new_ones(len(X))


def _clipped(U: Tensor, threshold: float) -> Tensor:
    rms = torch.linalg.vector_norm(U) / U.numel() ** 0.5
    return U.div_((rms / threshold).clamp_min_(1.0))


_FULL = {"exp_avg": 1, "exp_avg_sq": 2}
_BY_AXIS = {"row_sq": 2, "col_sq": 2, "row_avg": 1, "col_avg": 1}


@dataclass(frozen=True)
class Moments:
    """One kind of moments.

    Attributes:
        name: Its id in options.
        update: The pure update above.
        keeps: The state it keeps: full-size tensors and row or column vectors.
        betas: Its default decays.
        eps: Its default smoothing constant.
        flops_per_element: Arithmetic per element of its coordinates.
        averages_gradient: Whether `exp_avg` is an average of gradients that a basis may be computed from. Adafactor's
            is one of normalised steps.
        debiases: Whether that average is bias-corrected.
        vector: The moments for tensors that are not matrices; its own id where it treats elements one by one.
        whole_step: The step on the weights themselves, in their own coordinates, where that is faster than `update`.
    """

    name: str
    update: Callable[[Tensor, State, int, Hyper], Tensor]
    keeps: tuple[str, ...]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    flops_per_element: int = 0
    averages_gradient: bool = False
    debiases: bool = True
    vector: str = ""
    whole_step: WholeStep | None = None

    def layout(self, m: int, n: int, hyper: Hyper) -> Layout:
        """Return the state kept for m x n coordinates."""
        del hyper
        layout = {}
        for name in self.keeps:
            if name in _FULL:
                layout[name] = Slot((m, n), "moment", ("row", "column"), _FULL[name])
            else:
                axis, size = ("row", m) if name.startswith("row") else ("column", n)
                layout[name] = Slot((size,), "vector", (axis,), _BY_AXIS[name])
        return layout

    def flops(self, m: int, n: int, hyper: Hyper) -> Flops:
        """Return the arithmetic of a step in m x n coordinates."""
        del hyper
        return Flops(self.flops_per_element * m * n, 0, 0)


_FACTORED = ("row_sq", "col_sq")
MOMENTS = {
    moments.name: moments
    for moments in (
        Moments(
            "adam",
            adam,
            ("exp_avg", "exp_avg_sq"),
            flops_per_element=10,
            averages_gradient=True,
            vector="adam",
            whole_step=fused_adam.descend,
        ),
        Moments(
            "adam-nomom",
            adam_without_momentum,
            ("exp_avg_sq",),
            flops_per_element=7,
            vector="adam-nomom",
        ),
        Moments(
            "adafactor",
            adafactor,
            ("exp_avg", *_FACTORED),
            eps=1e-30,
            flops_per_element=12,
            vector="adam",
        ),
        Moments(
            "adafactor-nomom",
            adafactor_without_momentum,
            _FACTORED,
            eps=1e-30,
            flops_per_element=9,
            vector="adam-nomom",
        ),
        Moments(
            "hfac",
            hfac,
            (*_FACTORED, "row_avg", "col_avg"),
            eps=1e-30,
            flops_per_element=15,
            vector="adam",
        ),
        Moments(
            "lion",
            lion,
            ("exp_avg",),
            betas=(0.9, 0.99),
            flops_per_element=7,
            averages_gradient=True,
            debiases=False,
            vector="lion",
        ),
        Moments(
            "momentum",
            momentum,
            ("exp_avg",),
            flops_per_element=3,
            averages_gradient=True,
            debiases=False,
            vector="momentum",
        ),
        Moments("sgd", sgd, (), vector="sgd"),
    )
}
