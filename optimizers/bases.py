"""Bases: the coordinates in which a step is taken: what each keeps, when it moves, how to get there and back.

Legend: G m x n gradient, m <= n; P left basis (m x a), Q right basis (n x b); coordinates are a x b. A one-sided basis
has Q = I. Full rank: a = m (and b = n); rank r: a = r (and b = r).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .averages import average, debiased
from .decompositions import (
    LinAlgError,
    canonical_signs,
    gram_basis,
    left_basis,
    matched_signs,
    two_sided_bases,
)
from .flops import Flops
from .moments import MOMENTS
from .slots import Layout, Slot, transport

State = Mapping[str, Tensor]
Options = Mapping[str, Any]

_COUNT = Slot((), "count")


class Basis(Protocol):
    """What the composed optimizer needs of a basis."""

    @property
    def short_first(self) -> bool:
        """Whether matrices come to it transposed where they are tall."""

    def layout(self, m: int, n: int, options: Options) -> Layout:
        """Return the state it keeps for an m x n matrix."""

    def coordinates(self, m: int, n: int, options: Options) -> tuple[int, int]:
        """Return the shape in which moments live."""

    def flops(self, m: int, n: int, options: Options) -> Flops:
        """Return its work beyond the moments'."""

    def prepare(self, state: State, G: Tensor, usable: Tensor, t: int, options: Options) -> None:
        """Move the basis, if it is due, before G is projected. `usable`: G is finite and not zero."""

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return G in the basis' coordinates."""

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return a step in the parameter's coordinates."""

    def follow(
        self, state: State, G: Tensor, projected: Tensor, usable: Tensor, t: int, options: Options
    ) -> None:
        """Move the basis after its use, for the next step."""


def resolve_rank(rank: int | float | None, m: int) -> int | None:
    """Return a rank option as a number of directions of an m-row matrix: a share of m, a count, or None for full."""
    if rank is None:
        return None
    return min(rank, m) if isinstance(rank, int) else max(1, round(rank * m))


def is_refresh_due(step: int, period: int, early: bool) -> bool:
    """Return whether step 1, 2, ... refreshes: at 1, T + 1, 2 T + 1, ... and, if early, at 2, 4, 8, ... below T."""
    return (step - 1) % period == 0 or (early and step < period and step & (step - 1) == 0)


class Identity:
    """The parameter's own coordinates: nothing kept, nothing moved."""

    short_first = False

    def layout(self, m: int, n: int, options: Options) -> Layout:
        """Return no state."""
        return {}

    def coordinates(self, m: int, n: int, options: Options) -> tuple[int, int]:
        """Return (m, n)."""
        return m, n

    def flops(self, m: int, n: int, options: Options) -> Flops:
        """Return no work."""
        return Flops(0, 0, 0)

    def prepare(self, state: State, G: Tensor, usable: Tensor, t: int, options: Options) -> None:
        """Do nothing."""

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return G."""
        return G

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return the step."""
        return step

    def follow(
        self, state: State, G: Tensor, projected: Tensor, usable: Tensor, t: int, options: Options
    ) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Periodic:
    """Singular or eigenvectors, fitted every `period` steps: P^T G, or P^T G Q with two sides.

    `source` says what is decomposed: this step's gradient (Nguyen et al. 2025, algorithm 1; GaLore), the
    average that this step follows, beta1 P M Q^T + (1 - beta1) G with the moments' own beta1 (no extra state), or
    the averages of G G^T and G^T G (m^2 more, and n^2). `on_refresh` says what becomes of the moments: the
    papers keep them untouched.

    Fitted on the gradient it projects, a full two-sided basis makes P^T G Q diagonal: its other entries are
    rounding noise, which Adam scales to whole units in the very first step. Warm-up makes that harmless.

    Differs from the papers: refreshes at t = 1, T + 1, ... and, with `early_refresh`, at powers of two below
    T, where the papers wait for t mod T = 0; columns keep the signs of the basis before, so that kept moments
    stay aligned. A gradient that is zero or not finite, or a decomposition that fails, leaves the basis as it
    was and is counted; a basis that was never fitted tries again at the next step.

    Memory: P is a m (and Q b n) numbers in the basis dtype. A refresh needs a float64 copy of G and of its factors.
    """

    sides: int
    short_first: ClassVar[bool] = True

    def layout(self, m: int, n: int, options: Options) -> Layout:
        """Return P (and Q), the covariances where they are the source, and the counters."""
        a, b = self.coordinates(m, n, options)
        layout = {
            "refreshes": _COUNT,
            "kept_bases": _COUNT,
            "basis_left": Slot((m, a), "basis", identity=True),
        }
        if self.sides == 2:
            layout["basis_right"] = Slot((n, b), "basis", identity=True)
        if options["source"] == "covariance":
            layout["covariance_left"] = Slot((m, m), "basis")
            if self.sides == 2:
                layout["covariance_right"] = Slot((n, n), "basis")
        if options["on_refresh"] == "reset":
            layout["restart"] = _COUNT
        return layout

    def coordinates(self, m: int, n: int, options: Options) -> tuple[int, int]:
        """Return (a, b)."""
        rank = resolve_rank(options["rank"], m)
        a, b = (m, n) if rank is None else (rank, rank)
        return a, (b if self.sides == 2 else n)

    def flops(self, m: int, n: int, options: Options) -> Flops:
        """Return the costs of Nguyen et al. 2025, section 3.4, extended to rank r and to averaged covariances."""
        a, b = self.coordinates(m, n, options)
        two = self.sides == 2
        step = 4 * (m * n * a + (a * n * b if two else 0))
        square_refresh = 2 * m * n**2 if two else m**2 * n
        bound = (8 * m * n**2 if two and (a, b) == (m, n) else step) + square_refresh
        if options["source"] == "covariance":
            step += 2 * m * m * n + (2 * m * n * n if two else 0)
            # A symmetric eigendecomposition with vectors: about 9 m^3 (Golub and Van Loan, section 8.3).
            refresh = 9 * m**3 + (9 * n**3 if two else 0)
        else:
            refresh = m * m * n + n**3 if two else m * n * n
        return Flops(step, refresh, bound)

    def prepare(self, state: State, G: Tensor, usable: Tensor, t: int, options: Options) -> None:
        """Average the covariances where they are the source, then refresh if it is time."""
        if options["source"] == "covariance":
            beta = debiased(options["betas"][1], t)
            average(state["covariance_left"], G @ G.mT, beta)
            if self.sides == 2:
                average(state["covariance_right"], G.mT @ G, beta)
        never_fitted = int(state["refreshes"]) == 0
        if never_fitted or is_refresh_due(t, options["period"], options["early_refresh"]):
            self._refresh(state, G, usable, t, options)

    def _refresh(self, state: State, G: Tensor, usable: Tensor, t: int, options: Options) -> None:
        # The one wait for the device in a period. Fake tensors have no values to wait for.
        if not isinstance(G, FakeTensor) and not bool(usable):
            state["kept_bases"].add_(1)
            return
        try:
            fitted = self._fit(state, G, t, options)
        except LinAlgError as error:
            state["kept_bases"].add_(1)
            warnings.warn(f"a basis was kept, its decomposition failed: {error}", stacklevel=2)
            return
        first = int(state["refreshes"]) == 0
        rotations = {}
        for name, basis in fitted.items():
            old = state[f"basis_{name}"]
            new = canonical_signs(basis) if first else matched_signs(basis, old)
            new = new.to(old.dtype)
            rotations["row" if name == "left" else "column"] = (new.mT @ old).to(G.dtype)
            old.copy_(new)
        state["refreshes"].add_(1)
        if not first:
            self._carry_moments(state, rotations, t, options)

    def _fit(self, state: State, G: Tensor, t: int, options: Options) -> dict[str, Tensor]:
        rank = resolve_rank(options["rank"], G.shape[0])
        if options["source"] == "covariance":
            fitted = {"left": gram_basis(state["covariance_left"], rank)}
            if self.sides == 2:
                fitted["right"] = gram_basis(state["covariance_right"], rank)
            return fitted
        if options["source"] == "momentum":
            M = self.lift(state, state["exp_avg"].to(G.dtype))
            beta1 = options["betas"][0]
            if MOMENTS[options["moments"]].debiases:
                beta1 = debiased(beta1, moment_step(state, t))
            G = torch.lerp(M, G, 1 - beta1)
        if self.sides == 1:
            return {"left": left_basis(G, rank)}
        left, right = two_sided_bases(G, rank)
        return {"left": left, "right": right}

    def _carry_moments(
        self, state: State, rotations: dict[str, Tensor], t: int, options: Options
    ) -> None:
        moments = MOMENTS[options["moments"]]
        if options["on_refresh"] == "rotate":
            transport(
                {name: state[name] for name in moments.keeps},
                moments.layout(0, 0, options),
                rotations,
            )
        elif options["on_refresh"] == "reset":
            for name in moments.keeps:
                state[name].zero_()
            state["restart"].fill_(t - 1)

    def project(self, state: State, G: Tensor) -> Tensor:
        """Return P^T G, or P^T G Q."""
        projected = state["basis_left"].to(G.dtype).mT @ G
        return projected @ state["basis_right"].to(G.dtype) if self.sides == 2 else projected

    def lift(self, state: State, step: Tensor) -> Tensor:
        """Return P N, or P N Q^T."""
        lifted = state["basis_left"].to(step.dtype) @ step
        return lifted @ state["basis_right"].to(step.dtype).mT if self.sides == 2 else lifted

    def follow(
        self, state: State, G: Tensor, projected: Tensor, usable: Tensor, t: int, options: Options
    ) -> None:
        """Do nothing: a refresh comes before the step that uses it."""


def moment_step(state: State, t: int) -> int:
    """Return t as the moments count it: from their last reset."""
    return t - int(state["restart"]) if "restart" in state else t
