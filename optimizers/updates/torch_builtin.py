"""Updates that torch.optim ships, run as they are: the baselines.

Such an update takes the whole step itself, learning rate and weight decay included, on the parameter in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim._adafactor import adafactor
from torch.optim._muon import muon
from torch.overrides import TorchFunctionMode

from ..finite import finite_gradient
from ..flops import Flops
from ..matrices import matrix_shape
from ..options import (
    Options,
    PartOptions,
    betas_field,
    choice,
    eps_field,
    flag,
    is_whole,
    number,
    option,
)
from ..state.layout import Layout, Slot, compute_dtype
from .basis import State
from .update import COUNTERS, Update, count_nonfinite

# The quintic of torch.optim.Muon's default, from Keller Jordan's Muon.
_NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class MuonOptions(PartOptions):
    """What torch.optim.Muon has."""

    betas: tuple[float, float] = betas_field(0.95, 0.0)
    eps: float = eps_field(1e-7)
    nesterov: bool = flag(True, "Muon: orthogonalise the momentum as it will be at the next step")
    ns_steps: int = option(
        5,
        lambda value: is_whole(value, 1) and value < 100,
        "a whole number from 1 to 99",
        "Muon: Newton-Schulz steps",
    )
    adjust_lr: str = choice(
        "original",
        ("original", "match_rms_adamw"),
        "Muon: factor on lr by shape; match_rms_adamw makes steps of AdamW's size",
    )


@dataclass(frozen=True)
class TorchAdafactorOptions(PartOptions):
    """What torch.optim.Adafactor has, and decays that it does not read: schedules of torch expect a momentum."""

    betas: tuple[float, float] = betas_field(0.0, 0.0)
    eps: float | None = number(None, 0, 1, "smoothing constant of the moments")
    eps2: float = number(
        1e-3, 0, 1e6, "torch's Adafactor: smallest RMS of a parameter that its steps are scaled by"
    )
    beta2_decay: float = number(
        -0.8, -1e6, 0, "torch's Adafactor: exponent of the step count in 1 - beta2"
    )
    clip_threshold: float = number(
        1.0, 1e-12, math.inf, "largest RMS of Adafactor's normalised step"
    )


@dataclass(frozen=True)
class Muon(Update):
    """torch.optim.Muon: W <- (1 - lr wd) W - lr c O, with O the orthogonal factor of the Nesterov momentum.

    B = mu B + (1 - mu) G with mu = betas[0] (betas[1] is not read); O takes `ns_steps` Newton-Schulz steps in bfloat16
    on B, or with `nesterov` on mu B + (1 - mu) G; c = sqrt(max(1, rows / columns)) for `adjust_lr` "original", or
    0.2 sqrt(max(rows, columns)) for "match_rms_adamw", whose steps have the size of AdamW's.

    Learning rates are torch's: with "original" about ten times AdamW's. Convolutions, which torch.optim.Muon refuses,
    are out x (in * kernel) matrices here; vectors, also those of one row or column, get Adam. Not available:
    coefficients of one's own, and a state dtype other than the parameter's.
    Source: torch.optim.Muon (torch 2.9 and later); Jordan et al. 2024; Liu et al. 2025 for the second c.

    Memory: m n numbers in the parameter's dtype; transient about 3 m n + 2 m^2 in bfloat16, m the short side.
    """

    name: str = "muon"
    options: type[PartOptions] = MuonOptions
    vector_options: ClassVar[Options] = {"betas": (0.9, 0.999), "eps": 1e-8}

    def slots(self, shape: tuple[int, int], options: Options) -> Layout:
        """Return the momentum."""
        del options
        return {"momentum_buffer": Slot(shape, "moment")}

    def work(self, shape: tuple[int, int], options: Options) -> Flops:
        """Return the momentum's work and, per Newton-Schulz step, two m x m x n products and one m x m x m."""
        m, n = sorted(shape)
        orthogonalisation = options["ns_steps"] * (4 * m * m * n + 2 * m**3)
        return Flops(10 * m * n + orthogonalisation, 0, orthogonalisation)

    def apply(
        self, parameter: Tensor, gradient: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take torch's step on the matrix that the parameter is."""
        del t
        gradient, finite, _ = finite_gradient(gradient, compute_dtype(parameter.dtype))
        rows, columns = matrix_shape(parameter.shape, short_first=False)
        matrix = parameter.reshape(rows, columns)
        muon(
            [matrix],
            [gradient.to(parameter.dtype).reshape(rows, columns)],
            [state["momentum_buffer"]],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["betas"][0],
            nesterov=group["nesterov"],
            ns_coefficients=_NS_COEFFICIENTS,
            ns_steps=group["ns_steps"],
            eps=max(group["eps"], torch.finfo(torch.bfloat16).tiny),  # 0 / 0 is no step
            adjust_lr_fn=group["adjust_lr"],
            has_complex=False,
        )
        if parameter.ndim != 2 and not parameter.is_contiguous():  # reshape made a copy
            parameter.copy_(matrix.reshape(parameter.shape))
        count_nonfinite(state, finite)


@dataclass(frozen=True)
class Adafactor(Update):
    """torch.optim.Adafactor: factored second moments without a first, steps relative to the size of the parameter.

    beta2_t = 1 - t^beta2_decay; U = G / sqrt(V), V the product of row and column means; W <- (1 - lr wd) W -
    max(eps2, RMS(W)) min(lr, 1 / sqrt(t)) U / max(1, RMS(U) / clip_threshold). `eps` is torch's eps[0], which bounds V
    from below by its square; none means the machine epsilon of the parameter's dtype.

    Learning rates are torch's, relative to RMS(W): 0.01 moves a weight by a hundredth of its tensor's RMS. Only the
    last two dimensions are factored, so a 3 x 3 convolution keeps 6 / 9 of its size where `adafactor`'s matrix view
    keeps next to nothing. Every step waits for the device, to read RMS(W) and RMS(U). Not available: a first moment,
    a state dtype other than the parameter's, and torch's foreach form.
    Source: torch.optim.Adafactor; Shazeer and Stern 2018.

    Memory: for a (..., m, n) parameter ... (m + n) numbers in the parameter's dtype, a vector's full size; transient
    about one copy of the parameter.
    """

    name: str = "adafactor-torch"
    options: type[PartOptions] = TorchAdafactorOptions
    vector: str = "adafactor-torch"

    def layout(self, shape: Sequence[int], options: Options) -> Layout:
        """Return the means over the last dimension and over the one before it, or a vector's whole variance."""
        del options
        shape = tuple(shape)
        if len(shape) < 2:
            return COUNTERS | {"variance": Slot(shape, "moment")}
        return COUNTERS | {
            "row_var": Slot((*shape[:-1], 1), "moment"),
            "col_var": Slot((*shape[:-2], 1, shape[-1]), "moment"),
        }

    def flops(self, shape: Sequence[int], options: Options) -> Flops:
        """Return its elementwise work."""
        del options
        return Flops(12 * prod(shape), 0, 0)

    def apply(
        self, parameter: Tensor, gradient: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take torch's step."""
        gradient, finite, _ = finite_gradient(gradient, compute_dtype(parameter.dtype))
        is_fake = isinstance(parameter, FakeTensor)
        with _EveryNumberIsOne() if is_fake else nullcontext():
            adafactor(
                [parameter],
                [gradient.to(parameter.dtype)],
                [state.get("row_var")],
                [state.get("col_var")],
                [state.get("variance")],
                [torch.tensor(t - 1.0)],  # torch counts the step itself
                lr=1.0 if is_fake else group["lr"],
                d=group["clip_threshold"],
                beta2_decay=group["beta2_decay"],
                weight_decay=group["weight_decay"],
                eps1=_divisible(group["eps"], parameter.dtype),  # type: ignore[arg-type]  # torch takes None
                eps2=group["eps2"],
                maximize=False,
            )
        count_nonfinite(state, finite)


def _divisible(eps: float | None, dtype: torch.dtype) -> float | None:
    """Return torch's eps[0] with a square that can be divided by: 0 / 0 is no step."""
    return None if eps is None else max(eps, float(torch.finfo(dtype).tiny) ** 0.5)


class _EveryNumberIsOne(TorchFunctionMode):
    """Lets code that reads numbers off the device run on fake tensors, which have none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return 1.0 if func is Tensor.item else func(*args, **(kwargs or {}))


TORCH_UPDATES: dict[str, Update] = {update.name: update for update in (Muon(), Adafactor())}
