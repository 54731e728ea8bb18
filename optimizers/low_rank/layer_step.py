"""One low-rank layer on its way through one step of dynamical low-rank training.

Legend: W = U S V^T, m x n of rank q; K = U S, L = V S^T; G the gradient by W; h the learning rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bases.decompositions import LinAlgError
from ..finite import finite_gradient
from ..matrices import matrix_shape
from ..state.layout import Dtypes, Layout, Slot, allocate
from .convert import rank_limit
from .integrator import (
    INTEGRATORS,
    augmented,
    augmented_moments,
    carried,
    chosen,
    galerkin_start,
    orth,
    truncated,
)
from .linear import FACTORS, LowRankLayer

_COUNTERS = {
    "step": Slot((), "count"),
    "unchanged_steps": Slot((), "count"),
    "kept_bases": Slot((), "count"),
    "nonfinite_gradients": Slot((), "device_count"),
}


def factor_layouts(
    shape: Sequence[int], options: Mapping[str, Any], rank: int
) -> dict[str, Layout]:
    """Return what is kept beside U, S and V at this rank: the integrator's moments of K, S and L, and S's counters.

    A factor that nothing is kept for is left out; so are U and V where the bases are frozen.
    """
    m, n = matrix_shape(shape, short_first=False)
    slots_of = INTEGRATORS[options["integrator"]].slots
    layouts: dict[str, Layout] = {"S": {**_COUNTERS, **slots_of((rank, rank), options)}}
    if options["rank_mode"] != "frozen":
        sides = {"U": slots_of((m, rank), options), "V": slots_of((n, rank), options)}
        layouts |= {name: slots for name, slots in sides.items() if slots}
    return layouts


@dataclass(frozen=True)
class _Between:
    """What the end of a step must know of its beginning.

    Attributes:
        usable: Whether the gradients of K and L were finite.
        rank: q.
        start: S0 = M S N^T.
        M: Ua^T U.
        N: Va^T V.
        moments: S's moments in the new bases.
        retained: The old factors at a fixed rank; at an adaptive one the new ones begin with them.
    """

    usable: Tensor
    rank: int
    start: Tensor
    M: Tensor
    N: Tensor
    moments: dict[str, Tensor]
    retained: tuple[Tensor, Tensor, Tensor] | None


class LayerStep:
    """Moves one layer's factors: bases, then core, or the core alone.

    `move_bases` needs the gradients of K and L and returns with the layer in its new bases, at the same point or, at a
    fixed rank, at its projection; `move_core` needs S's gradient there and ends the step; `undo` ends it without one.
    `fine_tune` is a step of S alone. A layer whose gradients are not finite keeps its factors and counts it; the
    moments of what had such a gradient take a zero one, as in `Composed`.

    Args:
        layer: The layer.
        group: Its parameter group.
        state: The optimizer's state; the entries of the layer's parameters are filled and modified.
    """

    def __init__(
        self,
        layer: LowRankLayer,
        group: Mapping[str, Any],
        state: MutableMapping[Tensor, dict[str, Tensor]],
    ) -> None:
        self.layer, self.group, self._state = layer, group, state
        self._integrator = INTEGRATORS[group["integrator"]]
        self._slots = self._integrator.slots((0, 0), group)
        self._dtypes = Dtypes.under(layer.S.dtype, group)
        self._between: _Between | None = None
        self._allocate("S")
        self._counts = state[layer.S]

    @property
    def has_frozen_bases(self) -> bool:
        """Whether its options say that only S moves."""
        return bool(self.group["rank_mode"] == "frozen")

    @property
    def has_settled(self) -> bool:
        """Whether the bases may be frozen: they are, or the rank has been the same for `settle_steps` steps."""
        unchanged = int(self._counts["unchanged_steps"])
        return self.has_frozen_bases or 0 < self.group["settle_steps"] <= unchanged

    def freeze_bases(self) -> None:
        """Drop the moments of K and L: from here on only S moves."""
        self._state.pop(self.layer.U, None)
        self._state.pop(self.layer.V, None)

    def move_bases(self) -> None:
        """Take the K- and L-steps, and leave the layer holding Ua, S0 and Va."""
        self._allocate("U", "V")
        self._counts["step"].add_(1)
        layer = self.layer
        factors = layer.factors
        U, S, V = (factor.to(self._dtypes.compute) for factor in factors)
        gradient_K, finite_K = self._gradient(layer.U)
        gradient_L, finite_L = self._gradient(layer.V)
        before = {name: self._moments(getattr(layer, name), copy=True) for name in FACTORS}
        step_K, step_L = self._step(layer.U, gradient_K), self._step(layer.V, gradient_L)
        if self.group["rank_mode"] == "adaptive":
            Ua, Va, retained = augmented(U, step_K), augmented(V, step_L), None
        else:
            Ua = orth(self._moved(U @ S, step_K))
            Va = orth(self._moved(V @ S.mT, step_L))
            retained = factors
        start, M, N = galerkin_start((U, S, V), Ua, Va)
        if retained is None:
            moments = augmented_moments(before, self._slots, Ua, Va)
        else:
            moments = carried(before["S"], self._slots, M, N)
        self._between = _Between(finite_K & finite_L, layer.rank, start, M, N, moments, retained)
        layer.hold(Ua, start, Va)

    def move_core(self) -> None:
        """Take the S-step from S0, and give the layer its factors: of the kept rank, or of the fixed one."""
        between = self._begun()
        gradient, finite = self._gradient(self.layer.S)
        usable = between.usable & finite
        self._counts["nonfinite_gradients"].add_(~usable)
        step = self._integrator.step(gradient, between.moments, self._t, self.group)
        S = self._moved(between.start, step)
        if between.retained is None:
            self._truncate(S, between, usable)
        else:
            self._keep_rank(S, between, between.retained, usable)

    def undo(self) -> None:
        """Give the layer back the point it started from; at an adaptive rank up to rounding."""
        between = self._begun()
        if between.retained is not None:
            self.layer.hold(*between.retained)
            return
        q = between.rank
        U, _, V = self.layer.factors
        self.layer.hold(U[:, :q].clone(), between.start[:q, :q].clone(), V[:, :q].clone())

    def fine_tune(self) -> None:
        """Take a step of S alone, U and V being constants (Hnatiuk et al. 2024, section 5.3)."""
        self._counts["step"].add_(1)
        S = self.layer.S
        gradient, finite = self._gradient(S)
        self._counts["nonfinite_gradients"].add_(~finite)
        wide = S.detach().to(self._dtypes.compute)
        moved = self._moved(wide, self._step(S, gradient))
        S.data.copy_(torch.where(finite, moved, wide))

    def _truncate(self, S: Tensor, between: _Between, usable: Tensor) -> None:
        group, layer = self.group, self.layer
        limit = rank_limit(layer.dense_shape, group)
        try:
            cut = truncated(S, group["tau"], group["truncation"], limit, usable)
        except LinAlgError as error:
            self._counts["kept_bases"].add_(1)
            warnings.warn(f"a layer kept its factors, its truncation failed: {error}", stacklevel=2)
            cut = None
        if cut is None:
            self.undo()
            return
        P, sigma, Q = cut
        U, _, V = (factor.to(S.dtype) for factor in layer.factors)
        layer.hold(U @ P, torch.diag(sigma), V @ Q)
        self._put(layer.S, carried(between.moments, self._slots, P.mT, Q.mT))
        self._put(layer.U, carried(self._moments(layer.U), self._slots, None, Q.mT @ between.N))
        self._put(layer.V, carried(self._moments(layer.V), self._slots, None, P.mT @ between.M))
        unchanged = self._counts["unchanged_steps"]
        unchanged.add_(1) if layer.rank == between.rank else unchanged.zero_()

    def _keep_rank(
        self, S: Tensor, between: _Between, retained: tuple[Tensor, Tensor, Tensor], usable: Tensor
    ) -> None:
        layer, slots = self.layer, self._slots
        U, _, V = layer.factors
        factors = zip((U, S.to(U.dtype), V), retained, strict=True)
        layer.hold(*(torch.where(usable, new, old) for new, old in factors))
        moments = {parameter: self._moments(parameter) for parameter in (layer.U, layer.S, layer.V)}
        moved = {
            layer.U: carried(moments[layer.U], slots, None, between.N),
            layer.S: between.moments,
            layer.V: carried(moments[layer.V], slots, None, between.M),
        }
        for parameter, new in moved.items():
            self._put(parameter, chosen(usable, new, moments[parameter]))
        self._counts["unchanged_steps"].add_(1)

    def allocate(self) -> None:
        """Allocate what is kept for the layer's factors, where it is not there yet."""
        self._allocate(*FACTORS)

    def _allocate(self, *names: str) -> None:
        layouts = factor_layouts(self.layer.dense_shape, self.group, self.layer.rank)
        for name in names:
            parameter = getattr(self.layer, name)
            if name in layouts and not self._state.get(parameter):
                self._state[parameter] = allocate(layouts[name], self._dtypes, parameter.device)

    @property
    def _t(self) -> int:
        return int(self._counts["step"])

    def _begun(self) -> _Between:
        if self._between is None:
            raise RuntimeError("the bases have not moved")
        return self._between

    def _moments(self, parameter: Tensor, *, copy: bool = False) -> dict[str, Tensor]:
        state = self._state.get(parameter, {})
        return {name: state[name].clone() if copy else state[name] for name in self._slots}

    def _put(self, parameter: Tensor, moments: dict[str, Tensor]) -> None:
        for name, value in moments.items():
            state = self._state[parameter]
            state[name] = value.to(state[name].dtype)

    def _step(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        return self._integrator.step(gradient, self._moments(parameter), self._t, self.group)

    def _gradient(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Take a gradient from its parameter; return it, zeros if it is not finite, and whether it was."""
        if parameter.grad is None:
            raise RuntimeError(
                "a low-rank layer had a gradient in the first evaluation of the closure and has none now: "
                "the closure must compute the same loss each time it is called"
            )
        gradient, known, _ = finite_gradient(parameter.grad, self._dtypes.compute)
        finite = known if isinstance(known, Tensor) else torch.tensor(known, device=gradient.device)
        parameter.grad = None
        return (-gradient if self.group["maximize"] else gradient), finite

    def _moved(self, X: Tensor, step: Tensor) -> Tensor:
        """Return (1 - h weight_decay) X - h step."""
        lr, decay = self.group["lr"], self.group["weight_decay"]
        moved: Tensor = (X * (1 - lr * decay) if decay else X) - step * lr
        return moved
