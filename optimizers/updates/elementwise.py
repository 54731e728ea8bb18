"""Moments: the step that a gradient gets in given coordinates, whichever they are. Pure functions, then the updates.

Legend: G m x n gradient in the coordinates of the basis; beta_t = (beta - beta^t) / (1 - beta^t), the decay whose
moving average is the bias-corrected one (so the first average is the first value); t = 1, 2, ...
State tensors are modified in place; the returned step may be one of them and must not be modified.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..finite import finite_gradient
from ..flops import Flops
from ..matrices import as_matrix
from ..options import (
    Options,
    PartOptions,
    betas_field,
    eps_field,
    flag,
    number,
    state_dtype_field,
)
from ..state import low_bit
from ..state.layout import Layout, Slot, compute_dtype
from . import fused_adam
from .averages import average, average_square, debiased
from .basis import IDENTITY, OUT_OF_REACH, State
from .update import Update, count_nonfinite


@dataclass(frozen=True)
class MomentOptions(PartOptions):
    """What all moments have."""

    betas: tuple[float, float] = betas_field(0.9, 0.999)
    eps: float = eps_field(1e-8)
    state_dtype: str | None = state_dtype_field()


@dataclass(frozen=True)
class LionOptions(MomentOptions):
    """The same with Lion's decays."""

    betas: tuple[float, float] = betas_field(0.9, 0.99)


@dataclass(frozen=True)
class AdafactorOptions(MomentOptions):
    """What factored second moments have."""

    eps: float = eps_field(1e-30)
    clip_threshold: float = number(
        1.0, 1e-12, math.inf, "largest RMS of Adafactor's normalised step"
    )


@dataclass(frozen=True)
class HfacOptions(AdafactorOptions):
    """What factored first and second moments have."""

    clip_momentum: bool = flag(False, "clip Hfac's momentum terms too")


def adam(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Adam: M = EMA[G], V = EMA[G^2], step M / (sqrt(V) + eps).

    eps stands outside the root, as in torch.optim.AdamW (paper 1's algorithm prints it inside, its ODE outside). With
    an eps of 0, what has had no gradient yet takes no step: 0 / 0 is 0.
    Source: Kingma and Ba 2015; in rotated coordinates Nguyen et al. 2025, algorithm 1.
    """
    step = torch.zeros_like(G)
    if fused_adam.descend(step, G, state, t, {**options, "lr": -1.0, "weight_decay": 0.0}):
        return step
    beta1, beta2 = (debiased(beta, t) for beta in options["betas"])
    M = average(state["exp_avg"], G, beta1)
    return _rms_normalised(M, G, state, beta2, options["eps"])


def adam_without_momentum(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Adam's second moment alone: V = EMA[G^2], step G / (sqrt(V) + eps)."""
    return _rms_normalised(G, G, state, debiased(options["betas"][1], t), options["eps"])


def _rms_normalised(M: Tensor, G: Tensor, state: State, beta2: float, eps: float) -> Tensor:
    V = average_square(state["exp_avg_sq"], G, beta2)
    denominator = (V.sqrt() if V is state["exp_avg_sq"] else V.sqrt_()).add_(eps)
    if eps == 0:
        denominator = _without_zeros(denominator)
    return torch.div(M, denominator, out=denominator)


def _without_zeros(denominator: Tensor) -> Tensor:
    """Return a denominator, in place, that turns what it would divide by 0 into 0."""
    return denominator.masked_fill_(denominator == 0, torch.inf)


def adafactor_without_momentum(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Adafactor without momentum: U = G / sqrt(V) with V = r s^T / (1^T r), clipped to RMS 1.

    r = EMA[(G^2 + eps) 1_n] and s = EMA[(G^2 + eps)^T 1_m]. V is never formed: U = G * rsqrt(r / mean(r)) *
    rsqrt(s / m), because r s^T underflows float32 for small gradients. Then U / max(1, RMS(U) / clip_threshold).
    Source: Nguyen et al. 2025, algorithm 2 ("w/o momentum"); Shazeer and Stern 2018.
    """
    m, n = G.shape
    square = G.square()
    beta2 = debiased(options["betas"][1], t)
    r = average(state["row_sq"], square.sum(1).add_(n * options["eps"]), beta2)
    s = average(state["col_sq"], _column_sums(square).add_(m * options["eps"]), beta2)
    tiny = torch.finfo(r.dtype).tiny
    row = (r / r.mean().clamp_min_(tiny)).clamp_min_(tiny).rsqrt_()
    column = (s / m).clamp_min_(tiny).rsqrt_()
    # ||U||^2 before there is a U: two matrix-vector products instead of two passes over m n numbers.
    rms = (torch.dot(row.square(), square @ column.square()) / G.numel()).sqrt_()
    row /= (rms / options["clip_threshold"]).clamp_min_(1.0)
    return torch.mul(G, row[:, None], out=square).mul_(column)


def adafactor(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Adafactor with momentum: step M = EMA[clip(G / sqrt(V))], V as without momentum.

    Source: Nguyen et al. 2025, algorithm 2.
    """
    U = adafactor_without_momentum(G, state, t, options)
    return average(state["exp_avg"], U, debiased(options["betas"][0], t))


def hfac(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Hfac: factored first and second moments, 2 (m + n) numbers.

    u = EMA[G 1_n / n], v = EMA[G^T 1_m / m], r and s as Adafactor's;
    phi = beta1_t (u - G 1_n / n) / sqrt(r / n), psi = beta1_t (v - G^T 1_m / m) / sqrt(s / m);
    step 0.5 (phi 1^T + 1 psi^T) + clip(G / sqrt(V)).
    phi + psi is not clipped in the paper and turns uphill when a coherent gradient jumps more than 2.2 times;
    `clip_momentum` clips it as the last term is. Source: Nguyen et al. 2025, algorithm 3.
    """
    beta1 = debiased(options["betas"][0], t)
    m, n = G.shape
    row_mean, column_mean = G.mean(1), _column_sums(G) / m
    u = average(state["row_avg"], row_mean, beta1)
    v = average(state["col_avg"], column_mean, beta1)
    step = adafactor_without_momentum(G, state, t, options)
    row_root, column_root = (state["row_sq"] / n).sqrt_(), (state["col_sq"] / m).sqrt_()
    if options["eps"] == 0:
        row_root, column_root = _without_zeros(row_root), _without_zeros(column_root)
    phi = (u - row_mean).mul_(beta1).div_(row_root)
    psi = (v - column_mean).mul_(beta1).div_(column_root)
    if options["clip_momentum"]:
        return step.add_(_clipped(0.5 * (phi[:, None] + psi), options["clip_threshold"]))
    return step.add_(phi[:, None], alpha=0.5).add_(psi, alpha=0.5)


def lion(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Lion: step sign(beta1 M + (1 - beta1) G), then M = beta2 M + (1 - beta2) G; no bias correction.

    Source: Chen et al. 2023; Liang et al. 2024, example 2.1.
    """
    del t
    beta1, beta2 = options["betas"]
    step = low_bit.read(state["exp_avg"], G.dtype).lerp(G, 1 - beta1).sign_()
    average(state["exp_avg"], G, beta2)
    return step


def momentum(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Momentum: step M = beta M + (1 - beta) G; no bias correction. Source: Liang et al. 2024, example 2.1."""
    del t
    return average(state["exp_avg"], G, options["betas"][0])


def sgd(G: Tensor, state: State, t: int, options: Options) -> Tensor:
    """Plain gradient descent: step G."""
    del state, t, options
    return G


def _column_sums(X: Tensor) -> Tensor:
    """Return X^T 1, half the time of `sum(0)` on a CPU."""
    return X.mT @ X.new_ones(len(X))


def _clipped(U: Tensor, threshold: float) -> Tensor:
    rms = torch.linalg.vector_norm(U) / U.numel() ** 0.5
    return U.div_((rms / threshold).clamp_min_(1.0))


_FULL = {"exp_avg": 1, "exp_avg_sq": 2}
_BY_AXIS = {"row_sq": 2, "col_sq": 2, "row_avg": 1, "col_avg": 1}


@dataclass(frozen=True, kw_only=True)
class Moments(Update):
    """Moments in the coordinates of any basis.

    Attributes:
        function: The pure function above.
        keeps: The state it keeps: full-size tensors and row or column vectors.
        flops_per_element: Arithmetic per element of its coordinates.
        debiases: Whether the average of gradients is bias-corrected. Adafactor's is one of normalised steps.
    """

    function: Callable[[Tensor, State, int, Options], Tensor]
    keeps: tuple[str, ...]
    options: type[PartOptions] = MomentOptions
    flops_per_element: int = 0
    debiases: bool = True

    def slots(self, shape: tuple[int, int], options: Options) -> Layout:
        """Return the state kept for coordinates of this shape."""
        del options
        layout = {}
        for name in self.keeps:
            if name in _FULL:
                layout[name] = Slot(shape, "moment", ("row", "column"), _FULL[name])
            else:
                axis, size = ("row", shape[0]) if name.startswith("row") else ("column", shape[1])
                layout[name] = Slot((size,), "vector", (axis,), _BY_AXIS[name])
        return layout

    def work(self, shape: tuple[int, int], options: Options) -> Flops:
        """Return the arithmetic of a step in coordinates of this shape."""
        del options
        return Flops(self.flops_per_element * shape[0] * shape[1], 0, 0)

    def step(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Take G, the t-th gradient, into the state and return the step, which must not be modified."""
        return self.function(G, state, t, options)


_OWN_COORDINATES = (IDENTITY, OUT_OF_REACH)


@dataclass(frozen=True, kw_only=True)
class Adam(Moments):
    """Adam, which takes the whole step by torch's fused kernel where that kernel can."""

    def apply(
        self, parameter: Tensor, gradient: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take the t-th step."""
        if self.basis not in _OWN_COORDINATES or self.basis.scale(group) != 1:
            super().apply(parameter, gradient, state, t, group)
            return
        gradient, finite, _ = finite_gradient(gradient, compute_dtype(parameter.dtype))
        if not fused_adam.descend(parameter, gradient, state, t, group):
            self.descend(parameter, as_matrix(gradient, short_first=False), state, t, group)
        count_nonfinite(state, finite)


_FACTORED = ("row_sq", "col_sq")
MOMENTS: dict[str, Moments] = {
    moments.name: moments
    for moments in (
        Adam(
            name="adam", function=adam, keeps=("exp_avg", "exp_avg_sq"), flops_per_element=10,
            averages_gradient=True,
        ),
        Moments(
            name="adam-nomom", function=adam_without_momentum, keeps=("exp_avg_sq",),
            flops_per_element=7, vector="adam-nomom",
        ),
        Moments(
            name="adafactor", function=adafactor, keeps=("exp_avg", *_FACTORED),
            options=AdafactorOptions, flops_per_element=12,
        ),
        Moments(
            name="adafactor-nomom", function=adafactor_without_momentum, keeps=_FACTORED,
            options=AdafactorOptions, flops_per_element=9, vector="adam-nomom",
        ),
        Moments(
            name="hfac", function=hfac, keeps=(*_FACTORED, "row_avg", "col_avg"),
            options=HfacOptions, flops_per_element=15,
        ),
        Moments(
            name="lion", function=lion, keeps=("exp_avg",), options=LionOptions,
            flops_per_element=7, averages_gradient=True, debiases=False, vector="lion",
        ),
        Moments(
            name="momentum", function=momentum, keeps=("exp_avg",), flops_per_element=3,
            averages_gradient=True, debiases=False, vector="momentum",
        ),
        Moments(name="sgd", function=sgd, keeps=(), vector="sgd"),
    )
}  # fmt: skip
