"""Online PCA: rank-r bases that descend one step per gradient instead of being decomposed anew.

Legend: G m x n gradient, m <= n; P m x r left and Q n x r right basis; Gn = G / ||G||_F.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..flops import Flops
from ..matrices import energy_of
from ..options import Options, choice, number, rank_field, whole
from ..state import low_bit
from ..state.layout import Layout, Slot, SlotType
from ..updates import fused_adam
from ..updates.basis import BasisOptions, Rotated, Shape, State, resolve_rank
from ..updates.elementwise import MOMENTS
from ..updates.rounding import without_rounding
from .completion import orthonormal_factor, solver_rounding
from .decompositions import LinAlgError, canonical_signs, left_basis, two_sided_bases

_BETAS = (0.9, 0.999)
_EPS = 1e-8


def pca_gradient(P: Tensor, G: Tensor, ortho_weight: float = 0.1) -> Tensor:
    """Return the gradient in P of L(P) = ||P P^T Gn - Gn||^2 + lambda ||P^T P - I||^2, in closed form.

    Y = Gn Gn^T P, N = P^T P;  dL/dP = P (2 P^T Y + 4 lambda (N - I)) + Y (2 N - 4 I).
    Two thin products with G and four of r x r, 4 m n r + 8 m r^2 FLOPs; nothing n x n or m x m.

    Args:
        P: Basis, shape (m, r); orthonormal or not.
        G: Gradient, shape (m, n), not all zero.
        ortho_weight: lambda.

    Returns:
        Gradient, shape (m, r).

    Source: Liang et al. 2024, eq. 6.
    """
    return _gradient(P, G, P.mT @ G, energy_of(G), ortho_weight)


def _gradient(
    P: Tensor, G: Tensor, projected: Tensor, energy: Tensor, ortho_weight: float
) -> Tensor:
    """The same, given ||G||^2 and P^T G, which the optimizer has anyway and which is overwritten."""
    # One factor for both of G's norms: neither G^T P / ||G||^2 nor Y overflows or underflows.
    Y = G @ projected.div_(energy).mT
    excess = P.mT @ P
    excess.diagonal().sub_(1)
    on_P = torch.addmm(excess, P.mT, Y, beta=4 * ortho_weight, alpha=2)
    excess.diagonal().sub_(1)
    gradient = P @ on_P
    return torch.addmm(gradient, Y, excess, alpha=2, out=gradient)


@dataclass(frozen=True)
class _Side:
    """The names under which one side's basis and its optimizer's moments are kept."""

    basis: str
    exp_avg: str
    exp_avg_sq: str


_LEFT = _Side("basis_left", "basis_exp_avg", "basis_exp_avg_sq")
_RIGHT = _Side("basis_right", "basis_right_exp_avg", "basis_right_exp_avg_sq")


@dataclass(frozen=True)
class OnlinePCAOptions(BasisOptions):
    """What a basis that moves in every step has."""

    rank: float | None = rank_field()
    basis_optimizer: str = choice("adam", ("adam", "sgd"), "what moves an online-PCA basis")
    basis_lr_ratio: float = number(5.0, 0, 1e6, "learning rate of the basis, as a multiple of lr")
    basis_lr_cap: float | None = number(
        None, 0, 1e6, "most that the learning rate of the basis becomes; none: no limit"
    )
    ortho_weight: float = number(0.1, 0, 1e6, "weight of the orthonormality term (lambda)")
    retract_every: int = whole(
        0, 0, "steps between QR retractions of an online-PCA basis; 0: never"
    )


@dataclass(frozen=True)
class OnlinePCA(Rotated):
    """Rank-r bases moved by one step of SGD or Adam on eq. 6 after every gradient; projects and lifts with P_t.

    One side: P^T G and P N. Two sides: P^T G Q and P N Q^T with Q n x r, where P descends eq. 6 on G and Q, by the
    same rule, on G^T; both are tracked at every step.

    P (and Q) start as the first usable gradient's r leading singular vectors, where eq. 6 has no slope: Adam would
    blow that step's rounding error up to whole units, so they first move at the next one. Then
    P <- P - lr_P (D + lambda_W P), D the gradient above or Adam's step on it, its t counted from the start of
    P. A zero or non-finite gradient leaves the bases alone; a decomposition that fails is counted and tried again at
    the next gradient. With two sides the first P^T G Q is diagonal. What rounding leaves of other entries, and of D's
    that should be zero, is set to zero (see `completion.without_rounding`).

    lr_P = alpha lr_W, with alpha (`basis_lr_ratio`) 5. Adam on P moves every entry by up to lr_P, and a large one takes
    P away from orthonormal: ||P^T P - I|| reached 22 at r = 128 and lr_W = 0.01. `basis_lr_cap` limits it. Gradient
    descent on P is stable below lr_P = 1 / (4 (e1 + lambda)), e1 <= 1 the top direction's share of the energy.

    Differs from the paper: the optional cap, and an optional QR retraction every `retract_every` steps. Of two sides
    the paper gives the operator and says "online SVD"; that eq. 6 moves both is our reading. Source: Liang et al. 2024,
    algorithm 1 and section 4.3.

    Memory: m r numbers in the basis dtype, 3 m r with Adam; (m + n) r and 3 (m + n) r with two sides. With 8-bit
    moments Adam's two are 8-bit too, as in the paper, and only P stays whole. The second side shrinks Adam's moments
    of the weights from 2 n r to 2 r^2: with SGD on the bases it saves memory, with Adam on them it costs n r + 2 r^2
    more than it saves. Transient about 3 m r + 2 n r, with two sides 3 n r + 2 m r.
    """

    sides: int = 1

    @property
    def options(self) -> type[OnlinePCAOptions]:
        """Its options."""
        return OnlinePCAOptions

    @property
    def _sides(self) -> tuple[_Side, ...]:
        return (_LEFT, _RIGHT)[: self.sides]

    def reaches(self, shape: Shape, options: Options) -> bool:
        """Return True."""
        return True

    def layout(self, shape: Shape, options: Options) -> Layout:
        """Return P (and Q), Adam's moments of them, and the counters."""
        r, _ = self.coordinates(shape, options)
        layout = {"fitted_at": Slot((), "count"), "kept_bases": Slot((), "count")}
        for side, length in zip(self._sides, shape, strict=False):
            layout[side.basis] = Slot((length, r), "basis", identity=True)
            if options["basis_optimizer"] == "adam":
                layout[side.exp_avg] = Slot((length, r), _moment_slot_type(options))
                layout[side.exp_avg_sq] = Slot((length, r), _moment_slot_type(options), power=2)
        return layout

    def coordinates(self, shape: Shape, options: Options) -> Shape:
        """Return (r, n), or (r, r) with two sides."""
        m, n = shape
        r = resolve_rank(options["rank"], m) or m
        return r, (r if self.sides == 2 else n)

    def flops(self, shape: Shape, options: Options) -> Flops:
        """Return projection, lift and the PCA steps; the first decomposition happens once and is not amortised."""
        m, n = shape
        r, _ = self.coordinates(shape, options)
        step = 4 * m * n * r + 2 * m * n * r + _square_flops(m, r)
        if self.sides == 2:
            # From P^T G to P^T G Q and back; then neither product of a PCA step is at hand.
            step += 2 * (m + n) * r * r + 2 * m * n * r + 4 * m * n * r + _square_flops(n, r)
        return Flops(step, 0, step)

    def sees_gradient(self, state: State, t: int, options: Options) -> bool:
        """Return True: the basis follows every gradient."""
        return True

    def prepare(
        self, state: State, G: Tensor, usable: Tensor | bool, t: int, options: Options
    ) -> None:
        """Start the bases at the first usable gradient."""
        if int(state["fitted_at"]) > 0:
            return
        if not isinstance(G, FakeTensor) and not bool(usable):
            state["kept_bases"].add_(1)
            return
        r = state["basis_left"].shape[1]
        try:
            fitted = (left_basis(G, r),) if self.sides == 1 else two_sided_bases(G, r)
        except LinAlgError as error:
            state["kept_bases"].add_(1)
            warnings.warn(f"a basis was kept, its decomposition failed: {error}", stacklevel=2)
            return
        for side, basis in zip(self._sides, fitted, strict=True):
            state[side.basis].copy_(canonical_signs(basis))
        state["fitted_at"].fill_(t)

    def descend(self, W: Tensor, state: State, step: Tensor, rate: float, decay: float) -> None:
        """W <- decay W - rate P N, or P N Q^T."""
        P = state["basis_left"].to(step.dtype)
        if self.sides == 2:
            P, step = P @ step, state["basis_right"].to(step.dtype).mT
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
        """Move P one step down eq. 6 on G, and Q on G^T. `projected` is overwritten."""
        age = t - int(state["fitted_at"])
        if age in {0, t}:  # fitted on this very gradient, or never
            return
        energy = energy_of(G)
        # A gradient may be usable and still too small to square.
        usable = usable & (energy > 0)
        energy = torch.where(usable, energy, 1.0)
        for side, facing in zip(self._sides, (G, G.mT), strict=False):
            P = state[side.basis].to(G.dtype)
            seen = projected if self.sides == 1 else P.mT @ facing
            D = _gradient(P, facing, seen, energy, options["ortho_weight"]).mul_(usable)
            D = without_rounding(D, P)
            _descend(P, D, usable, state, side, age, options)
            if options["retract_every"] and t % options["retract_every"] == 0:
                P = orthonormalised(P)
            if P is not state[side.basis]:
                state[side.basis].copy_(P)


def _square_flops(length: int, r: int) -> float:
    """Work of a PCA step on a length x r basis besides its products with G."""
    return 8 * length * r * r + 12 * length * r


def _descend(
    P: Tensor,
    D: Tensor,
    usable: Tensor,
    state: State,
    side: _Side,
    age: int,
    options: Options,
) -> None:
    """P <- P - lr_P (D + weight_decay P) in place, or by Adam's step on D; not at all where D is not usable."""
    decay = options["weight_decay"]
    lr_P = _basis_lr(options) * usable.to(P.dtype)
    if options["basis_optimizer"] == "sgd":
        P.sub_(D.add_(P, alpha=decay).mul_(lr_P))
        return
    moments = {"exp_avg": state[side.exp_avg], "exp_avg_sq": state[side.exp_avg_sq]}
    own = {"betas": _BETAS, "eps": _EPS, "lr": lr_P, "weight_decay": decay}
    if not fused_adam.descend(P, D, moments, age, own):
        step = MOMENTS["adam"].step(D, moments, age, own)
        P.sub_(torch.add(step, P, alpha=decay).mul_(lr_P))


def _basis_lr(options: Options) -> float | Tensor:
    """Return lr_P: lr times `basis_lr_ratio`, at most `basis_lr_cap`."""
    rate, cap = options["basis_lr_ratio"] * options["lr"], options["basis_lr_cap"]
    if cap is None:
        return rate  # type: ignore[no-any-return]
    return rate.clamp(max=cap) if isinstance(rate, Tensor) else min(rate, cap)


def is_basis_lr_capped(options: Options) -> bool:
    """Return whether a group's basis moves at its cap, and not at its ratio of the group's rate."""
    cap = options.get("basis_lr_cap")
    return cap is not None and bool(options["basis_lr_ratio"] * options["lr"] > cap)


def _moment_slot_type(options: Options) -> SlotType:
    """A basis' moments are as exact as the basis, except in 8 bits: the paper's Adam on P is the weights' 8-bit one."""
    return "moment" if options["state_dtype"] == low_bit.STATE_DTYPE else "basis"


def orthonormalised(P: Tensor) -> Tensor:
    """Return the orthonormal factor of P = QR with a positive diagonal of R, shape (m, r), completed where P is not."""
    return orthonormal_factor(P, solver_rounding(P.dtype) * torch.linalg.matrix_norm(P))
