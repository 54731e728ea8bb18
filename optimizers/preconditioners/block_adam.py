"""Block Adam: Adam whose second moment is a small matrix for every few weights of an output neuron, not a number.

Legend: G m x n, rows are output neurons; a row is cut into n / b blocks of b consecutive inputs; g one such block.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bases.decompositions import LinAlgError
from ..flops import Flops
from ..options import Options, PartOptions, basis_dtype_field, betas_field, eps_field, whole
from ..state.layout import Layout, Slot
from ..updates.averages import average, debiased
from ..updates.basis import Shape, State
from ..updates.update import Update
from .inverse_sqrt import suits_tridiagonal
from .matrix_roots import chunks, spectrum
from .tridiagonal import Tridiagonal, batches


def block_side(n: int, block_size: int) -> int:
    """Return b: the largest divisor of n that is at most `block_size`; 1 for a prime n above it."""
    return next(b for b in range(min(block_size, n), 0, -1) if n % b == 0)


@dataclass(frozen=True)
class BlockAdamOptions(PartOptions):
    """What Block Adam has."""

    betas: tuple[float, float] = betas_field(0.9, 0.999)
    eps: float = eps_field(1e-16)
    basis_dtype: str | None = basis_dtype_field()
    block_size: int = whole(8, 1, "largest side of a preconditioner's blocks")


@dataclass(frozen=True)
class BlockAdam(Update):
    """M = EMA[G], V = EMA[g g^T] for every block, step (V + eps I)^(-1/2) M, both averages bias-corrected.

    Blocks are b consecutive weights of one output neuron, b the largest divisor of n that is at most `block_size`: 8
    unless you say otherwise, as Yen et al. use for their Transformer. At b = 1 (also where n is a prime above
    `block_size`) it is Adam. eps stands inside the root, so its default is the square of Adam's.

    V has rank t at first, and M has no part outside its range but rounding, which the root of a small eigenvalue would
    blow up. So eigenvalues are never taken smaller than V's own rounding, its dtype's epsilon times the largest, and M
    has V's dtype, never a coarser one. A block whose decomposition fails takes Adam's step and is counted.

    Differs from the source: averages are bias-corrected, as Adam's.

    Memory: m n for M and m n b for V, both in the basis dtype. Roots are computed at every step and not kept:
    transient, at most 64 MiB of float64 blocks at a time and as much for their vectors; float32 blocks of 3 to 64 on a
    CPU, of which the step takes a fifth of an `eigh`'s time (`tridiagonal`), 8 MiB at a time, a few times.
    Source: Yun, Lozano and Yang 2022, AdaBlock: SGD with Practical Block Diagonal Matrix Adaptation for Deep Learning,
    as compared by Yen et al. 2023, Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization.
    """

    name: str = "block-adam"
    options: type[PartOptions] = BlockAdamOptions

    def slots(self, shape: Shape, options: Options) -> Layout:
        """Return M, V and the counter of failures."""
        m, n = shape
        b = block_side(n, options["block_size"])
        return {
            "kept_bases": Slot((), "count"),
            "exp_avg": Slot((m, n), "basis"),
            "exp_avg_outer": Slot((m * n // b, b, b), "basis"),
        }

    def work(self, shape: Shape, options: Options) -> Flops:
        """Return per block: 4 b^2 for V, a decomposition of 9 b^3, and 4 b^2 for the step; everything every step."""
        m, n = shape
        b = block_side(n, options["block_size"])
        step = m * n // b * (9 * b**3 + 8 * b**2) + 3 * m * n
        return Flops(step, 0, step)

    def step(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Take G, the t-th gradient, into the state and return the step."""
        beta1, beta2 = (debiased(beta, t) for beta in options["betas"])
        V = state["exp_avg_outer"]
        b = V.shape[-1]
        M = average(state["exp_avg"], G, beta1).reshape(-1, b)
        g = G.reshape(-1, b)
        steps = torch.empty_like(g, memory_format=torch.contiguous_format)
        for chunk in chunks(len(V), b):
            _average_outer(V[chunk], g[chunk], beta2)
            try:
                steps[chunk] = _whitened(M[chunk], V[chunk], options["eps"])
            except LinAlgError:
                steps[chunk] = _by_diagonal(M[chunk], V[chunk], options["eps"])
                state["kept_bases"].add_(len(V[chunk]))
                warnings.warn("blocks took Adam's step: their decomposition failed", stacklevel=2)
        return steps.reshape(G.shape)


def _average_outer(V: Tensor, g: Tensor, beta: float) -> None:
    """Update V <- beta * V + (1 - beta) * g g^T for every block, in g's precision."""
    if V.dtype == g.dtype:
        V.mul_(beta).addcmul_(g[..., :, None], g[..., None, :], value=1 - beta)
    else:
        outer = (g[..., :, None] * g[..., None, :]).mul_(1 - beta)
        V.copy_(outer.add_(V, alpha=beta))


def _whitened(M: Tensor, V: Tensor, eps: float) -> Tensor:
    """Return (V + eps I)^(-1/2) M for every block: M of shape (blocks, b), V of (blocks, b, b)."""
    if suits_tridiagonal(V):
        step = torch.empty_like(M)
        for batch in batches(len(V), V.shape[-1]):
            step[batch] = _whitened_at_once(M[batch], V[batch], eps)
        return step
    values, vectors = spectrum(V)
    noise = torch.finfo(V.dtype).eps * values[..., -1:]
    values = _divisible(torch.maximum(values, noise) + eps, M.dtype)
    inner = (vectors.mT @ M.to(vectors.dtype)[..., None]).squeeze(-1) / values.sqrt_()
    return (vectors @ inner[..., None]).squeeze(-1).to(M.dtype)


def _whitened_at_once(M: Tensor, V: Tensor, eps: float) -> Tensor:
    """Return the same without eigenvectors, in float64; the rounding of V's largest one is added instead of a floor."""
    solved = Tridiagonal(V.double())
    noise = torch.finfo(V.dtype).eps * solved.largest
    return solved.inverse_root_times(M, _divisible(noise + eps, M.dtype))


def _by_diagonal(M: Tensor, V: Tensor, eps: float) -> Tensor:
    """Return the same with V's diagonal alone: Adam's step."""
    values = V.diagonal(dim1=-2, dim2=-1).to(M.dtype).clamp_min(0) + eps
    return M / _divisible(values, M.dtype).sqrt_()


def _divisible(values: Tensor, dtype: torch.dtype) -> Tensor:
    # With eps = 0, gradients so small that their squares vanish would be divided by 0.
    return values.clamp_min_(torch.finfo(dtype).tiny)
