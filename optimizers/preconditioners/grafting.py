"""Grafting: the direction of one method at the length of another's step, layer by layer.

Source: Agarwal et al. 2020, Disentangling Adaptive Gradient Methods from Learning Rates; the normalised kind is that of
Anil et al. 2020, Scalable Second Order Optimization for Deep Learning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..options import Options, choice, eps_field, whole
from ..state.layout import Layout, Slot
from ..updates.averages import average_square, debiased
from ..updates.basis import Shape, State
from ..updates.elementwise import MomentOptions

GRAFTS = ("none", "rmsprop", "rmsprop-normalized", "sgd")

# Added to RMSProp's root, as Anil et al. do: small beside a normalised gradient's entries, about (m n)^(-1/2).
_EPS = 1e-10

_KEEPS_SQUARES = frozenset({"rmsprop", "rmsprop-normalized"})


@dataclass(frozen=True)
class GraftedOptions(MomentOptions):
    """What every grafted preconditioner has: its decays, and whose step length."""

    eps: float = eps_field(1e-6)
    start_step: int = whole(1, 1, "first preconditioned step; before it the graft's own steps")
    graft: str = choice(
        "rmsprop-normalized", GRAFTS, "whose step length a preconditioned step gets"
    )


def graft_layout(shape: Shape, options: Options) -> Layout:
    """Return what the option `graft` keeps for an m x n matrix: m n squares for RMSProp, nothing for the others."""
    if options["graft"] not in _KEEPS_SQUARES:
        return {}
    return {"graft_sq": Slot(shape, "moment", ("row", "column"), 2)}


def graft_flops(shape: Shape, options: Options) -> float:
    """Return the arithmetic of the graft's step and of the two norms and one product that graft it."""
    per_element = {"none": 0, "sgd": 5, "rmsprop": 12, "rmsprop-normalized": 15}
    return per_element[options["graft"]] * shape[0] * shape[1]


def graft_step(G: Tensor, state: State, t: int, options: Options) -> Tensor | None:
    """Take the t-th gradient into the graft's state and return the graft's own step; None where nothing is grafted.

    "sgd": G. "rmsprop": V = EMA[G^2], step G / (sqrt(V) + 1e-10). "rmsprop-normalized": the same for G / ||G||_F, so
    that the scale of the loss drops out, of every single gradient. The average is bias-corrected, which Anil et al.
    leave out: their first step is 1 / sqrt(1 - beta2) times as long.

    Args:
        G: Gradient, shape (m, n). Not modified.
        state: Holds `graft_sq` where `graft_layout` says so; modified.
        t: 1, 2, ...
        options: `graft`, and `betas`, whose second is the decay.
    """
    if options["graft"] == "none":
        return None
    if options["graft"] == "sgd":
        return G
    if options["graft"] == "rmsprop-normalized":
        G = at_length(G, 1.0)
    root = average_square(state["graft_sq"], G, debiased(options["betas"][1], t)).sqrt().add_(_EPS)
    return torch.div(G, root, out=root)


def grafted(direction: Tensor, step: Tensor) -> Tensor:
    """Return the direction at the Frobenius length of the step; a zero direction stays zero."""
    return at_length(direction, torch.linalg.vector_norm(step))


def at_length(direction: Tensor, length: Tensor | float) -> Tensor:
    """Return the direction at a Frobenius length; a zero direction stays zero. Nothing waits for the device.

    Divided by its largest entry first: the squares of 1e-20 are lost in float32.
    """
    low, high = torch.aminmax(direction)
    largest = torch.maximum(-low, high).clamp_min_(torch.finfo(direction.dtype).tiny)
    scaled = direction / largest
    return scaled.mul_(length / torch.linalg.vector_norm(scaled).clamp_min_(0.5))
