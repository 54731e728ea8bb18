"""One layer along a training run: bases that are fitted to its gradients, held, followed and judged on later ones.

Legend: G m x n gradient, m <= n, scaled to norm 1; P m x w orthonormal, largest energy first; r rank asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subopt.optimizers import get_method
from subopt.optimizers.bases.decompositions import (
    LinAlgError,
    canonical_signs,
    gram_basis,
    left_basis,
)
from subopt.optimizers.bases.online_pca import OnlinePCA, orthonormalised
from subopt.optimizers.state.layout import Dtypes, allocate
from subopt.optimizers.updates.averages import average, debiased

from ..gradients.spectrum import energies, solvable
from ..record.layer import SubspaceLife
from .curves import Curves, captured_energy
from .schedule import Size, SubspaceSchedule

_CPU = torch.device("cpu")
_TRACKER = OnlinePCA()
_SOAP = get_method("soap").resolve({})
# Decay of averaged covariances: the second moments' where they have none of their own.
COVARIANCE_BETA: float = (
    _SOAP["betas"][1] if _SOAP["covariance_beta"] is None else _SOAP["covariance_beta"]
)


@dataclass
class _Fitted:
    """The bases of one fit by source, and the state of the online PCA that follows the gradient's."""

    start: int
    bases: dict[str, Tensor]
    tracker: dict[str, Tensor]


class FollowedLayer:
    """Judges held bases on every step's gradient, and fits new ones as scheduled.

    A gradient that is zero or not finite is not judged, fits nothing and enters no average.

    Memory: `Size.held_bytes`, in float32 on the CPU. Transient: two copies of G, and at a fit a float64 copy of G and
    of four m x m matrices.
    """

    def __init__(self, size: Size, when: SubspaceSchedule) -> None:
        self.stale: dict[int, Tensor] = {}
        self._size = size
        self._when = when
        self._options = get_method("osd").resolve({"rank": size.rank}) | {"weight_decay": 0.0}
        self._curves = Curves(size.m, size.rank)
        self._live: list[_Fitted] = []
        self._covariance: Tensor | None = None
        self._average: Tensor | None = None
        self._taken_in = 0
        self._first_norm = 0.0

    def observe(
        self, index: int, gradient: Tensor, momentum: Tensor | None, group: Mapping[str, Any]
    ) -> None:
        """Judge what is held on a step's gradient, then take the gradient in.

        Args:
            index: The step, from 0.
            gradient: Its gradient, m x n, m <= n, any float dtype. Not modified.
            momentum: The optimizer's average of the gradients up to this one, m x n; None where it keeps none.
            group: The optimizer's options for this layer: `lr`, and `betas` where it has them.
        """
        raw = solvable(gradient)
        norm = float(torch.linalg.vector_norm(raw, dtype=torch.float64))
        if not (math.isfinite(norm) and norm > 0):
            return
        G = raw.to(torch.float32) / norm
        for fitted in self._live:
            self._judge(fitted, index - fitted.start, G, group)
        self._live = [f for f in self._live if index - f.start < self._when.lags[-1]]
        if index <= max(self._when.starts, default=-1):
            self._take_in(G, norm, group)
        if index in self._when.starts:
            self._live.append(self._fit(index, G, momentum))
        if index >= max(self._when.starts, default=-1):
            self._covariance = self._average = None
        if index in self._when.stale:
            basis = _solved(lambda: left_basis(G))
            if basis is not None:
                self.stale[self._when.stale[index]] = basis

    def result(self) -> dict[str, SubspaceLife]:
        """Return the mean curves by source."""
        return self._curves.result()

    def _judge(self, fitted: _Fitted, lag: int, G: Tensor, group: Mapping[str, Any]) -> None:
        if lag in self._when.lags:
            for source, P in fitted.bases.items():
                kept = captured_energy(P.to(G.device), G, self._curves.ranks)
                self._curves.add_frozen(source, lag, kept)
        if lag == 1:
            self._curves.add_judged(energies(G, torch.float32))
        if fitted.tracker:
            self._follow(fitted.tracker, lag, G, group)

    def _follow(
        self, tracker: dict[str, Tensor], lag: int, G: Tensor, group: Mapping[str, Any]
    ) -> None:
        """Judge the span of the followed basis, if it is time, then move the basis as the optimizer would.

        It need not be orthonormal, and a column longer than 1 holds no more energy for it: its span is judged.
        """
        state = {name: value.to(G.device) for name, value in tracker.items()}
        P = state["basis_left"]
        if lag in self._when.lags and bool(torch.isfinite(P).all()):
            kept = captured_energy(orthonormalised(P), G, [self._size.rank])
            self._curves.add_tracked(lag, kept[0])
        options = self._options | {"lr": group["lr"]}
        usable = torch.ones((), dtype=torch.bool, device=G.device)
        # The method counts its steps from 1, and was fitted at the first.
        _TRACKER.follow(state, G, _TRACKER.project(state, G), usable, lag + 1, options)
        for name, value in state.items():
            if value is not tracker[name]:
                tracker[name].copy_(value)

    def _take_in(self, G: Tensor, norm: float, group: Mapping[str, Any]) -> None:
        """Average covariances (and gradients), in units of the first norm: a tiny gradient's square underflows."""
        self._taken_in += 1
        self._first_norm = self._first_norm or norm
        scale = norm / self._first_norm
        gram = (G @ G.mT).mul_(scale**2).to(_CPU)
        if self._covariance is None:
            self._covariance = torch.zeros_like(gram)
        average(self._covariance, gram, debiased(COVARIANCE_BETA, self._taken_in))
        if self._size.own_average:
            if self._average is None:
                self._average = torch.zeros(G.shape)
            beta = group.get("betas", (0.9,))[0]
            average(self._average, (G * scale).to(_CPU), debiased(beta, self._taken_in))

    def _fit(self, index: int, G: Tensor, momentum: Tensor | None) -> _Fitted:
        width, C = self._size.width, self._covariance
        M = self._average if self._size.own_average else momentum
        sources: dict[str, Callable[[], Tensor]] = {"gradient": lambda: left_basis(G, width)}
        if M is not None and bool(torch.isfinite(M).all() & (M != 0).any()):
            sources["momentum"] = lambda: left_basis(_scaled(M.to(G.device)), width)
        if C is not None:
            sources["covariance"] = lambda: gram_basis(C.to(G.device), width)
        solved = {source: _solved(fit) for source, fit in sources.items()}
        bases = {source: basis for source, basis in solved.items() if basis is not None}
        return _Fitted(index, bases, self._tracker(bases.get("gradient")))

    def _tracker(self, P: Tensor | None) -> dict[str, Tensor]:
        """Return the method's own state with this basis in it; empty where there is none to follow."""
        if P is None:
            return {}
        layout = _TRACKER.layout((self._size.m, self._size.n), self._options)
        state = allocate(layout, Dtypes.of(torch.float32, None, None), _CPU)
        state["basis_left"].copy_(canonical_signs(P[:, : self._size.rank]))
        state["fitted_at"].fill_(1)
        return state


def _solved(fit: Callable[[], Tensor]) -> Tensor | None:
    """Return a basis as it is held, or None where its decomposition does not converge."""
    try:
        return fit().to(_CPU, torch.float32)
    except LinAlgError:
        return None


def _scaled(M: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(M, dtype=torch.float64)
    return M.to(torch.float64) / norm
