"""Shared basis: every output neuron has a low-rank second moment of its own, in a basis that all of them share.

Legend: G m x d gradient as it lies in memory, row i the gradient g_i of output neuron i (its paper writes W as d_in x
d_out, its transpose); k rank; B d x k shared orthonormal basis; R_i k x k coefficients; rho_i residual norm.
H_i = sum_t g_i g_i^T is held as B R_i B^T + rho_i I.

Source: Yen et al. 2023, Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..bases.decompositions import LinAlgError
from ..bases.online_pca import orthonormalised
from ..flops import Flops
from ..options import Options, choice, eps_field, rank_field
from ..state.layout import Layout, Slot
from ..updates.basis import Shape, State, resolve_rank
from .grafting import GraftedOptions
from .inverse_sqrt import inverse_roots
from .matrix_roots import enough
from .shared_basis_residual import Residual, times

# On an autoencoder's gradients, k = 16: one step finds 60 % of the norm (median; 7 % at worst), this many 99 % (73 %).
POWER_STEPS = 5
# Numbers in one temporary of k x k matrices: bounds the memory of a step, not its result.
CHUNK_NUMBERS = 2**20


@dataclass(frozen=True)
class SharedBasisOptions(GraftedOptions):
    """What the shared basis has beside grafting."""

    eps: float = eps_field(1e-12)
    rank: float | None = rank_field(smallest=2)
    ridge: str = choice(
        "relative",
        ("relative", "absolute"),
        "what eps is added as: a share of each neuron's sum of eigenvalues, or a number as in its paper",
    )


class SharedBasis:
    """Algorithm 1 of Yen et al. 2023, for every gradient.

        B <- QR(A B), one randomized subspace step for A = sum_i M_i M_i^T
        R~_i = B^T M_i B,    M_i = B_old R_i B_old^T + g_i g_i^T
        R_i <- R~_i - sigma_i I,    sigma_i the smallest eigenvalue of R~_i
        rho_i <- rho_i + ||M_i - B R_i B^T||_2
        u_i = (B R_i B^T + (rho_i + ridge_i) I)^(-1/2) g_i    (eq. 6)

    ridge_i is eps tr(R~_i), so that the scale of the gradients drops out, or with `ridge` "absolute" the paper's eps.

    All are sums, as AdaGrad's: nothing decays. At k = d what sigma_i takes from R_i comes back through rho_i, and u_i
    is (sum g_i g_i^T + ridge_i I)^(-1/2) g_i exactly. One decomposition serves statistics and step, so both happen in
    `precondition`, from the start step on.

    Differs from the paper: B starts from the first gradient that is not zero, and zero gradients leave it alone; a step
    is computed in units of the largest entry, because the fourth powers in A leave float32's range; eigenvalues
    that rounding makes negative count as 0, and the ridge as no less than what rounding leaves of the largest one; the
    ridge is relative unless told otherwise. Neurons
    whose eigenvalues cannot be found keep R~_i unshrunk and rho_i, take no step, and are counted in `kept_bases`,
    once for all.

    Memory: d k + m k^2 + m numbers. Transient: a copy of G, 5 m k, 4 d k, and a dozen temporaries of CHUNK_NUMBERS.
    """

    def layout(self, shape: Shape, options: Options) -> Layout:
        """Return B, every R_i, every rho_i and the counters."""
        m, n = shape
        k = basis_size(n, options["rank"])
        return {
            "refreshes": Slot((), "count"),
            "kept_bases": Slot((), "count"),
            "shared_basis": Slot((n, k), "basis"),
            "coefficients": Slot((m, k, k), "basis"),
            "escaped": Slot((m,), "vector"),
        }

    def flops(self, shape: Shape, options: Options) -> Flops:
        """Return the arithmetic of a step, 12 m d k + 17 m k^3 to leading order: every step is a refresh."""
        m, n = shape
        k = basis_size(n, options["rank"])
        # Six products of a matrix of m x n; a QR (4 n k^2) and four products of thin ones.
        products = 12 * m * n * k + 12 * n * k * k
        # Four k x k products per neuron and a symmetric eigendecomposition with vectors (9 k^3); a tridiagonal form on
        # a CPU is less.
        per_neuron = 17 * k**3 + (12 + 8 * POWER_STEPS) * k * k
        step = products + m * per_neuron
        return Flops(step, 0, step)

    def accumulate(self, G: Tensor, state: State, t: int, options: Options) -> None:
        """Do nothing: see the class."""

    def precondition(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Take G into B, R and rho and return every u_i as the rows of an m x d matrix."""
        del t
        largest = _largest(G)
        if int(state["refreshes"]) == 0:
            # The one wait for the device outside decompositions. Fake tensors have no values to wait for.
            if not isinstance(G, FakeTensor) and not bool(largest > 0):
                state["kept_bases"].add_(1)
                return G
            k = state["shared_basis"].shape[1]
            state["shared_basis"].copy_(starting_basis(G / largest, k))
        state["refreshes"].add_(1)
        unit = torch.maximum(largest, state["coefficients"].amax().to(G.dtype).sqrt())
        unit = unit.clamp_min(torch.finfo(G.dtype).tiny ** 0.5)
        X = G / unit
        old = state["shared_basis"].to(G.dtype)
        image = subspace_image(old, state["coefficients"], X, unit)
        new = torch.where(largest > 0, orthonormalised(image), old)
        step = _refit(X, old, new, unit, state, options)
        state["shared_basis"].copy_(new)  # last: `old` may be this very tensor
        return step


def basis_size(d: int, rank: int | float | None) -> int:
    """Return k of a rank option for d inputs: at least 2 (k = 1 is shrunk to nothing), at most d."""
    return min(d, max(2, resolve_rank(rank, d) or d))


def starting_basis(G: Tensor, k: int) -> Tensor:
    """Return B_0 = orth(A G^T F), shape (d, k), A = sum_i |g_i|^2 g_i g_i^T.

    F is m x k, with entries cos(pi (i + 1/2) (j + 1/2) / m): a range finder that needs no random numbers.
    """
    m = G.shape[0]
    i = torch.arange(m, dtype=G.dtype, device=G.device) + 0.5
    j = torch.arange(k, dtype=G.dtype, device=G.device) + 0.5
    F = torch.outer(i, j).mul_(math.pi / m).cos_()
    Q = orthonormalised(G.mT @ F)
    squares = torch.linalg.vector_norm(G, dim=1, keepdim=True).square()
    return orthonormalised(G.mT @ (squares * (G @ Q)))


def subspace_image(B: Tensor, R: Tensor, X: Tensor, unit: Tensor) -> Tensor:
    """Return A B / unit^4 for A = sum_i M_i M_i^T and M_i = B R_i B^T + g_i g_i^T, forming neither.

    With h_i = B^T g_i and z_i = R_i h_i (so that p_i of the paper is B z_i), and orthonormal B:
    A B = B (sum_i R_i^2 + sum_i z_i h_i^T) + sum_i g_i (z_i + |g_i|^2 h_i)^T.

    Args:
        B: Shape (d, k), orthonormal.
        R: Shape (m, k, k), symmetric.
        X: G / unit, shape (m, d).
        unit: The scale of G, a scalar tensor.

    Source: Yen et al. 2023, section 2.2, with Y = B.
    """
    k = B.shape[1]
    H = X @ B
    Z = torch.empty_like(H)
    inner = torch.zeros(k, k, dtype=H.dtype, device=H.device)
    for rows in _chunks(len(R), k):
        R_rows = _in_units(R[rows], unit, H.dtype)
        Z[rows] = times(R_rows, H[rows])
        stacked = R_rows.flatten(0, 1)
        inner.addmm_(stacked.mT, stacked)
    inner.addmm_(Z.mT, H)
    squares = torch.linalg.vector_norm(X, dim=1, keepdim=True).square()
    return (X.mT @ Z.addcmul_(squares, H)).addmm_(B, inner)


def _refit(
    X: Tensor, old: Tensor, new: Tensor, unit: Tensor, state: State, options: Options
) -> Tensor:
    """Move R and rho to the new basis and return the step. X = G / unit is overwritten."""
    m, k = len(X), new.shape[1]
    C = new.mT @ old
    h = X @ new
    X.addmm_(h, new.mT, alpha=-1)
    outside = torch.linalg.vector_norm(X, dim=1, keepdim=True).square()
    # What the new basis misses of the old one, N = old - new C, and of g_i, r_i. Their products must be those of actual
    # vectors: H - h C, which costs less than X N, breaks |N^T r| <= |N| |r| where only rounding is left of N and r.
    N = old - new @ C
    overlap, n = N.mT @ N, X @ N
    is_complete = k == new.shape[0]
    W, scale = torch.zeros_like(h), torch.zeros_like(outside)
    for rows in _chunks(m, k):
        R_rows = _in_units(state["coefficients"][rows], unit, h.dtype)
        projected = (C @ (R_rows @ C.mT)).baddbmm_(h[rows, :, None], h[rows, None, :])
        try:
            solved = inverse_roots(projected)
        except LinAlgError:
            state["kept_bases"].add_(1)
            state["coefficients"][rows] = _out_of_units(projected, unit)
            continue
        smallest = solved.smallest()
        shift = smallest.clamp_min(0).to(h.dtype)[:, None]
        trace = projected.diagonal(dim1=1, dim2=2).sum(1)
        projected.diagonal(dim1=1, dim2=2).sub_(shift)
        state["coefficients"][rows] = _out_of_units(projected, unit)
        norm = shift
        if not is_complete:
            residual = Residual(R_rows, C, h[rows], n[rows], overlap, outside[rows], shift)
            norm = residual.norm(POWER_STEPS)
        rho = _in_range(state["escaped"][rows] + _out_of_units(norm[:, 0], unit))
        state["escaped"][rows] = rho
        damping = _damping(rho, solved.largest - smallest, trace, unit, options)
        scale[rows] = damping.rsqrt().to(h.dtype)[:, None]
        in_units = damping / unit.double().square()
        W[rows] = solved.inverse_root_times(
            h[rows], in_units - smallest
        )  # of R, whose smallest is 0
    return W @ new.mT if is_complete else X.mul_(scale * unit).addmm_(W, new.mT)


def _damping(rho: Tensor, largest: Tensor, trace: Tensor, unit: Tensor, options: Options) -> Tensor:
    """Return rho + ridge of eq. 6, in float64; the ridge is no less than the rounding of R's largest eigenvalue.

    Args:
        rho: Shape (N,).
        largest: R's largest eigenvalues, in units, shape (N,), float64.
        trace: R~'s sums of eigenvalues, in units, shape (N,).
        unit: The scale of G.
        options: `eps` and `ridge`.
    """
    info, square = torch.finfo(rho.dtype), unit.double().square()
    rounding = info.eps * largest * square
    if options["ridge"] == "relative":
        return (rho + rounding.maximum(options["eps"] * trace * square)).clamp_min_(info.tiny)
    return (rho + rounding.clamp_min(options["eps"])).clamp_min_(info.tiny)


def _chunks(m: int, k: int) -> Iterable[slice]:
    size = max(1, CHUNK_NUMBERS // (k * k))
    return enough(slice(start, start + size) for start in range(0, m, size))


def _largest(G: Tensor) -> Tensor:
    low, high = torch.aminmax(G)
    return torch.maximum(-low, high)


def _in_units(R: Tensor, unit: Tensor, dtype: torch.dtype) -> Tensor:
    return (R.to(dtype) / unit).div_(unit)


def _out_of_units(value: Tensor, unit: Tensor) -> Tensor:
    return _in_range((value * unit).mul_(unit))


def _in_range(value: Tensor) -> Tensor:
    """Keep sums of squares that grow out of the dtype's range at its edge, where adding three is still finite."""
    edge = torch.finfo(value.dtype).max / 4
    return value.clamp_(-edge, edge)
