"""Updates that torch.optim ships, run as they are: the baselines.

Such a rule takes the whole step itself, learning rate and weight decay included, on the parameter in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim._adafactor import adafactor
from torch.optim._muon import muon
from torch.overrides import TorchFunctionMode

from ..flops import Flops
from ..matrices import matrix_shape
from ..state.layout import Layout, Slot

State = Mapping[str, Tensor]
Options = Mapping[str, Any]

# The quintic of torch.optim.Muon's default, from Keller Jordan's Muon.
_NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class TorchRule(Protocol):
    """A torch.optim update as a rule."""

    @property
    def name(self) -> str:
        """Its id in the option `moments`."""

    @property
    def betas(self) -> tuple[float, float]:
        """Its default decays."""

    @property
    def eps(self) -> float | None:
        """Its default smoothing constant; None leaves the choice to torch."""

    @property
    def vector(self) -> str:
        """The moments for tensors that it does not take; its own name if it takes every shape."""

    def layout(self, shape: Sequence[int], options: Options) -> Layout:
        """Return the state kept for a parameter of this shape."""

    def flops(self, shape: Sequence[int], options: Options) -> Flops:
        """Return its arithmetic."""

    def apply(
        self, parameter: Tensor, gradient: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take the t-th step with a finite gradient in the parameter's shape."""


class Muon:
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

    name: ClassVar[str] = "muon"
    betas: ClassVar[tuple[float, float]] = (0.95, 0.0)
    eps: ClassVar[float | None] = 1e-7
    vector: ClassVar[str] = "adam"

    def layout(self, shape: Sequence[int], options: Options) -> Layout:
        """Return the momentum."""
        del options
        return {"momentum_buffer": Slot(matrix_shape(shape, short_first=False), "moment")}

    def flops(self, shape: Sequence[int], options: Options) -> Flops:
        """Return the momentum's work and, per Newton-Schulz step, two m x m x n products and one m x m x m."""
        m, n = matrix_shape(shape)
        orthogonalisation = options["ns_steps"] * (4 * m * m * n + 2 * m**3)
        return Flops(10 * m * n + orthogonalisation, 0, orthogonalisation)

    def apply(
        self, parameter: Tensor, gradient: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take torch's step on the matrix that the parameter is."""
        del t
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
            eps=group["eps"],
            adjust_lr_fn=group["adjust_lr"],
            has_complex=False,
        )
        if parameter.ndim != 2 and not parameter.is_contiguous():  # reshape made a copy
            parameter.copy_(matrix.reshape(parameter.shape))


class Adafactor:
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

    name: ClassVar[str] = "adafactor-torch"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.0)
    eps: ClassVar[float | None] = None
    vector: ClassVar[str] = "adafactor-torch"

    def layout(self, shape: Sequence[int], options: Options) -> Layout:
        """Return the means over the last dimension and over the one before it, or a vector's whole variance."""
        del options
        shape = tuple(shape)
        if len(shape) < 2:
            return {"variance": Slot(shape, "moment")}
        return {
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
                eps1=group["eps"],
                eps2=group["eps2"],
                maximize=False,
            )


class _EveryNumberIsOne(TorchFunctionMode):
    """Lets code that reads numbers off the device run on fake tensors, which have none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return 1.0 if func is Tensor.item else func(*args, **(kwargs or {}))


TORCH_RULES: dict[str, TorchRule] = {rule.name: rule for rule in (Muon(), Adafactor())}
