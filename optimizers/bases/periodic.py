"""Bases that are fitted anew every so many steps: to a gradient, to the momentum, or to averaged covariances.

Legend: G m x n gradient, m <= n; P left basis (m x a), Q right basis (n x b); coordinates are a x b.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from subopt.errors import OptionError

from ..flops import Flops
from ..options import Options, choice, flag, is_below_one, option, rank_field, whole
from ..state import low_bit
from ..state.layout import Layout, Slot, transport
from ..updates.averages import debiased
from ..updates.basis import (
    BasisOptions,
    Rotated,
    Shape,
    State,
    is_refresh_due,
    moment_step,
    resolve_rank,
)
from ..updates.elementwise import MOMENTS
from ..updates.rounding import without_rounding
from .covariance import FittedBasis, covariances, first_fit, refit, side_flops, take_in
from .decompositions import (
    LinAlgError,
    canonical_signs,
    left_basis,
    matched_signs,
    refined_basis,
    two_sided_bases,
)

_COUNT = Slot((), "count")
_AXES = {"left": "row", "right": "column"}


@dataclass(frozen=True)
class PeriodicOptions(BasisOptions):
    """What a basis that is fitted every so many steps has."""

    rank: float | None = rank_field()
    source: str = choice(
        "gradient", ("gradient", "momentum", "covariance"), "what the basis is computed from"
    )
    period: int = whole(200, 1, "steps between refreshes of the basis (T)")
    early_refresh: bool = flag(True, "also refresh at steps 2, 4, 8, ... below the period")
    stagger: bool = flag(
        False, "refreshes of parameters are spread over a period; none refreshes early then"
    )
    on_refresh: str = choice(
        "keep", ("keep", "rotate", "reset"), "what becomes of the moments when the basis changes"
    )
    second_moment_on_refresh: str | None = choice(
        None,
        ("keep", "permute", "rotate"),
        "the same for second moments; permute: they follow the old vectors' new ranks by energy",
    )
    solver: str = choice(
        "exact",
        ("exact", "power"),
        "a basis anew at each refresh, or power steps from the old one: one, or as many as a low rank needs",
    )
    covariance_beta: float | None = option(
        None,
        lambda value: value is None or is_below_one(value),
        "a number from 0 to below 1",
        "decay of averaged covariances; none: the second moments'",
    )
    use_current_gradient: bool = flag(
        True, "averaged covariances take in a gradient before it is preconditioned, not after"
    )
    skip_first: bool = flag(False, "the gradient that fits the first basis moves nothing")
    max_dim: int | None = whole(None, 1, "longest side that gets a basis; none: any")

    def check(self) -> None:
        """Refuse what only averaged covariances give a meaning."""
        if self.stagger:
            # At an early refresh every parameter would refresh at once.
            object.__setattr__(self, "early_refresh", False)
        for asked, what in (
            (not self.use_current_gradient, "use_current_gradient false"),
            (self.second_moment_on_refresh == "permute", "second_moment_on_refresh permute"),
        ):
            if asked and self.source != "covariance":
                raise OptionError(
                    f"{what} needs a basis of averaged covariances", "use source covariance"
                )


@dataclass(frozen=True)
class TwoSidedOptions(PeriodicOptions):
    """The same for two sides."""

    def check(self) -> None:
        """Refuse power steps from both sides of a gradient."""
        PeriodicOptions.check(self)
        if self.solver == "power" and self.source != "covariance":
            raise OptionError(
                "solver power needs a basis of averaged covariances, or of one side",
                "use source covariance, a one-sided basis, or solver exact",
            )


@dataclass(frozen=True)
class Periodic(Rotated):
    """Singular or eigenvectors, fitted every `period` steps: P^T G, or P^T G Q with two sides.

    `source` says what is decomposed: this step's gradient (Nguyen et al. 2025, algorithm 1; GaLore), the
    average that this step follows, beta1 P M Q^T + (1 - beta1) G with the moments' own beta1 (no extra state), or
    the averages of G G^T and G^T G (m^2 more, and n^2; see `eigenbasis`), which is SOAP's. A side longer than
    `max_dim` is left alone: nothing is kept for it. `on_refresh` says what becomes of the moments, and
    `second_moment_on_refresh` of the second ones where they differ: the papers keep them untouched, except that
    SOAP rotates the first and permutes the second with the old vectors' energies.

    Fitted on the gradient it projects, a full two-sided basis makes P^T G Q diagonal, and what rounding leaves of the
    other entries is set to zero (see `completion.without_rounding`): that step moves along singular vectors alone.
    `skip_first` leaves the very first one out: the gradient that fits the first basis moves nothing, moments included.

    With `use_current_gradient` a refresh comes before the step that uses it; without, a gradient enters averages and
    basis only after it was preconditioned (the very first basis excepted), as SOAP's authors do.

    `solver` "power" follows an earlier basis instead of decomposing anew: see `decompositions.refined_basis` for one
    of fewer than m columns, `eigenbasis.refit` for the rest. With `stagger` a parameter refreshes at steps
    T k + 1 + phase, k = 0, 1, ..., its phase in 0 ... T - 1 its place among the optimizer's (`phase_of`). First
    phases come early and stand for early refreshes, at which all would wait. The first step fits every basis.

    Differs from the papers: refreshes at t = 1, T + 1, ... of the steps that move, and, with `early_refresh`, at
    powers of two below T, where the papers wait for t mod T = 0; columns keep the signs of the basis before, so that
    kept moments stay aligned. A gradient that is zero or not finite, or a decomposition that fails, leaves the basis
    as it was and is counted; a basis that was never fitted tries again at the next step.

    Memory: P is a m (and Q b n) numbers in the basis dtype. An exact refresh needs a float64 copy of G and of its
    factors, a power step about 2 r (m + 2 n) numbers; SOAP's needs C P and the new basis in the dtype of computation.
    """

    sides: int

    @property
    def options(self) -> type[PeriodicOptions]:
        """Its options."""
        return PeriodicOptions if self.sides == 1 else TwoSidedOptions

    def _sides_within(self, shape: Shape, options: Options) -> int:
        """Return how many sides have a basis; the short side, m, comes first."""
        limit = options["max_dim"]
        return sum(limit is None or size <= limit for size in shape[: self.sides])

    def reaches(self, shape: Shape, options: Options) -> bool:
        """Return whether a side is short enough for a basis."""
        return self._sides_within(shape, options) > 0

    def layout(self, shape: Shape, options: Options) -> Layout:
        """Return P (and Q), the covariances where they are the source, and the counters."""
        sides = self._sides_within(shape, options)
        layout = {"refreshes": _COUNT, "kept_bases": _COUNT}
        widths = self.coordinates(shape, options)
        for side, size, width in zip(("left", "right")[:sides], shape, widths, strict=False):
            layout[f"basis_{side}"] = Slot((size, width), "basis", identity=True)
            if options["source"] == "covariance":
                layout[f"covariance_{side}"] = Slot((size, size), "basis")
        if options["on_refresh"] == "reset" or options["skip_first"]:
            layout["restart"] = _COUNT
        if options["stagger"]:
            layout["phase"] = _COUNT
        return layout

    def coordinates(self, shape: Shape, options: Options) -> Shape:
        """Return (a, b)."""
        m, n = shape
        rank = resolve_rank(options["rank"], m)
        sides = self._sides_within(shape, options)
        a, b = (m, n) if rank is None else (rank, rank)
        return a, (b if sides == 2 else n)

    def flops(self, shape: Shape, options: Options) -> Flops:
        """Return the costs of Nguyen et al. 2025, section 3.4, extended to rank r and to averaged covariances."""
        m, n = shape
        a, b = self.coordinates(shape, options)
        sides = self._sides_within(shape, options)
        two = sides == 2
        step = 4 * (m * n * a + (a * n * b if two else 0))
        if options["source"] == "covariance":
            step += 2 * m * m * n + (2 * m * n * n if two else 0)
            solver = options["solver"]
            refresh = side_flops(m, a, solver) + (side_flops(n, b, solver) if two else 0)
            refresh += _carrying_flops(m, n, a, b, two, options)
            return Flops(step, refresh, step + refresh)
        square_refresh = 2 * m * n**2 if two else m**2 * n
        bound = (8 * m * n**2 if two and (a, b) == (m, n) else step) + square_refresh
        refresh = m * m * n + n**3 if two else m * n * n
        if options["solver"] == "power":
            refresh = _following_flops(m, n, a)
        return Flops(step, refresh + _carrying_flops(m, n, a, b, two, options), bound)

    def sees_gradient(self, state: State, t: int, options: Options) -> bool:
        """Return whether there are covariances to take it in, or it may move the basis."""
        return "covariance_left" in state or _is_due_before(state, t, options)

    def prepare(
        self, state: State, G: Tensor, usable: Tensor | bool, t: int, options: Options
    ) -> None:
        """Move the basis if it is time and it may see this gradient, or if there is none yet."""
        if options["use_current_gradient"] and "covariance_left" in state:
            take_in(state, G, _sides_of(state), t, options)
        if _is_due_before(state, t, options):
            self._refresh(state, G, usable, t, options)

    def _refresh(
        self, state: State, G: Tensor, usable: Tensor | bool, t: int, options: Options
    ) -> None:
        """Fit the basis that step t is the first to use."""
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
        changes = {}
        for side, fit in fitted.items():
            old = state[f"basis_{side}"]
            new = canonical_signs(fit.basis) if first else matched_signs(fit.basis, old)
            new = new.to(old.dtype)
            if not first:
                changes[_AXES[side]] = _changes(new, old, fit.order, G.dtype, options)
            old.copy_(new)
        state["refreshes"].add_(1)
        if not first:
            _carry_moments(state, changes, t, options)
        elif options["skip_first"]:
            state["restart"].fill_(t)

    def _fit(self, state: State, G: Tensor, t: int, options: Options) -> dict[str, FittedBasis]:
        rank = resolve_rank(options["rank"], G.shape[0])
        if options["source"] == "covariance":
            return _fit_to_covariances(state, G, rank, options)
        if options["source"] == "momentum":
            M = self.lift(state, low_bit.read(state["exp_avg"], G.dtype))
            beta1 = options["betas"][0]
            if MOMENTS[options["moments"]].debiases:
                beta1 = debiased(beta1, moment_step(state, t))
            G = torch.lerp(M, G, 1 - beta1)
        if options["solver"] == "power" and int(state["refreshes"]) > 0:
            return {"left": _followed(G, state["basis_left"].to(G.dtype))}
        if _sides_of(state) == 1:
            return {"left": FittedBasis(left_basis(G, rank))}
        left, right = two_sided_bases(G, rank)
        return {"left": FittedBasis(left), "right": FittedBasis(right)}

    def descend(self, W: Tensor, state: State, step: Tensor, rate: float, decay: float) -> None:
        """W <- decay W - rate P N, or P N Q^T."""
        if "basis_right" in state:
            step = step @ state["basis_right"].to(step.dtype).mT
        P = state["basis_left"].to(step.dtype)
        torch.addmm(W, P, step, beta=decay, alpha=-rate, out=W)

    def follow(
        self,
        state: State,
        G: Tensor,
        projected: Tensor,
        usable: Tensor | bool,
        t: int,
        options: Options,
    ) -> None:
        """Where the basis may not see a gradient before its use, take it in now, and refresh for the next step."""
        if options["use_current_gradient"] or "covariance_left" not in state:
            return
        take_in(state, G, _sides_of(state), t, options)
        if int(state["refreshes"]) > 0 and _is_due(state, t + 1, options):
            self._refresh(state, G, usable, t + 1, options)


def _sides_of(state: State) -> int:
    return 2 if "basis_right" in state else 1


def _is_due_before(state: State, t: int, options: Options) -> bool:
    """Whether the basis is to move before step t uses it."""
    never_fitted = int(state["refreshes"]) == 0
    return never_fitted or (options["use_current_gradient"] and _is_due(state, t, options))


def _is_due(state: State, t: int, options: Options) -> bool:
    """Whether step t is to use a new basis, the first one aside; a first step that is skipped does not count."""
    step = t - 1 if options["skip_first"] else t
    if "phase" in state:
        return step > 1 and (step - 1) % options["period"] == int(state["phase"])
    return step > 1 and is_refresh_due(step, options["period"], options["early_refresh"])


def _fit_to_covariances(
    state: State, G: Tensor, rank: int | None, options: Options
) -> dict[str, FittedBasis]:
    sides = ("left", "right")[: _sides_of(state)]
    if int(state["refreshes"]) > 0:
        return {
            side: refit(
                state[f"covariance_{side}"].to(G.dtype),
                state[f"basis_{side}"].to(G.dtype),
                options["solver"],
            )
            for side in sides
        }
    if options["use_current_gradient"]:
        return {side: first_fit(state[f"covariance_{side}"].to(G.dtype), rank) for side in sides}
    # The averages have yet to see a gradient, and this one is all there is.
    return {side: first_fit(C, rank) for side, C in covariances(G, len(sides)).items()}


def _followed(G: Tensor, old: Tensor) -> FittedBasis:
    """Return a basis that follows the old one to G by power steps; a basis of all directions by one."""
    if old.shape[1] < len(G):
        return FittedBasis(refined_basis(G, old))
    return refit(G @ G.mT, old, "power")


def _following_flops(m: int, n: int, r: int) -> float:
    """Return the arithmetic of `_followed`, of a single step where it may take several."""
    if r == m:
        return 2 * m * m * n + side_flops(m, m, "power")
    # Three products with G; twice r rows' Gram matrix and its eigenvectors, and these applied; QR.
    small = 2 * (2 * n * r * r + 9 * r**3) + 2 * (n + m) * r * r
    return 6 * m * n * r + small + 4 * m * r * r - 4 * r**3 / 3


def _carrying_flops(m: int, n: int, a: int, b: int, two: bool, options: Options) -> float:
    """Return the arithmetic of rotating moments at a refresh: the maps, then every matrix of moments by them."""
    fates, moments = _moment_fates(options), MOMENTS[options["moments"]]
    if "rotate" not in fates.values():
        return 0
    slots = moments.slots((a, b), options).values()
    rotated = sum(len(slot.shape) == 2 and fates[slot.power] == "rotate" for slot in slots)
    maps = 2 * (m * a * a + (n * b * b if two else 0))
    return maps + rotated * 2 * (a * a * b + (a * b * b if two else 0))


def _moment_fates(options: Options) -> dict[int, str]:
    """What a refresh does to moments of power 1 and 2."""
    first = options["on_refresh"]
    return {1: first, 2: options["second_moment_on_refresh"] or first}


def _changes(
    new: Tensor, old: Tensor, order: Tensor | None, dtype: torch.dtype, options: Options
) -> dict[str, Tensor]:
    """Return the maps from old to new coordinates of one axis that the moments' fates ask for."""
    fates = _moment_fates(options).values()
    changes = {}
    if "rotate" in fates:
        changes["rotate"] = without_rounding(new.to(dtype).mT @ old.to(dtype))
    if "permute" in fates and order is not None:
        changes["permute"] = order
    return changes


def _carry_moments(
    state: State, changes: Mapping[str, Mapping[str, Tensor]], t: int, options: Options
) -> None:
    moments = MOMENTS[options["moments"]]
    if options["on_refresh"] == "reset":
        for name in moments.keeps:
            low_bit.clear(state[name])
        state["restart"].fill_(t - 1)
        return
    layout = moments.slots((0, 0), options)
    for power, fate in _moment_fates(options).items():
        if fate != "keep":
            names = [name for name in moments.keeps if layout[name].power == power]
            maps = {axis: change[fate] for axis, change in changes.items()}
            transport({name: state[name] for name in names}, layout, maps)
