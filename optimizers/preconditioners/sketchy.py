"""Sketchy: Shampoo whose two statistics are kept as low-rank sketches, and the norm of their residual as a number.

Legend: G m x n, cut into Shampoo's blocks. X b x c is a block for its left side, its transpose for the right one. Each
side of each block keeps l columns U (b x l, orthonormal or zero), their energies s, and a number rho.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..bases.decompositions import FLOAT64_MAX_SIDE, LinAlgError
from ..flops import Flops
from ..options import Options, rank_field
from ..state.layout import Layout, Slot
from ..updates.averages import debiased
from ..updates.basis import Shape, State, resolve_rank
from .matrix_roots import chunks
from .shampoo import ShampooOptions, block_shapes

# Eigenvectors U = F v / sqrt(s) of F F^T lose their length by rounding / s: what is smaller than this share is dropped.
_SMALLEST_SHARE = 1e-10


@dataclass(frozen=True)
class SketchyOptions(ShampooOptions):
    """What Sketchy has beside."""

    rank: float | None = rank_field()


class Sketchy:
    """L ~ U diag(s) U^T + rho I and the same for R, by Frequent Directions; the direction is Shampoo's.

        C = beta U diag(s) U^T + w X X^T             beta and w as Shampoo weights them: an average, or a sum
        U, s <- the l leading eigenvectors and values of C,    s <- s - s_(l + 1),    rho <- beta rho + s_(l + 1)
        direction (L + eps |L| I)^(-1/4) G (R + eps |R| I)^(-1/4)

    so that 0 <= C_true - U diag(s) U^T <= rho I at every update. Where l reaches the side there is no residual and it
    is Shampoo. A decomposition is what it takes to see a gradient, so only those at t = 1, T + 1, 2 T + 1, ... (T =
    `period`) are seen, before the start step too; with accumulation "ema" each stands for the T of its period: beta
    is betas[1]^T, bias-corrected.

    C is formed only where its side is no longer than l + c; otherwise the l + c inner products of F = [U sqrt(beta s),
    X sqrt(w)] give its eigenvectors. Both are solved in float64 as bases are. A decomposition that fails, or whose
    result is not finite, leaves the sketch as it was and is counted.

    s_(l + 1), the largest eigenvalue dropped, is the least that keeps the bound: deflated by s_l, a sketch would hold
    l - 1 directions in l columns. rho decays as the matrices it stands for do. The ridge is relative, as our
    Shampoo's.

    Memory: (b + 1) l + 1 numbers per side and block. A refresh needs a copy of G, and a few float64 copies of at most
    64 MiB of blocks (or of one block) and their sketches.
    Source: Feinberg et al. 2023, Sketchy: Memory-efficient Adaptive Regularization with Frequent Directions; settings
    of Yen et al. 2023, section 3.
    """

    def layout(self, shape: Shape, options: Options) -> Layout:
        """Return every side's U, s and rho, and the counters."""
        layout = {"refreshes": Slot((), "count"), "kept_bases": Slot((), "count")}
        for block in block_shapes(shape, options["block_size"]):
            for name, size in block.sides:
                rank = resolve_rank(options["rank"], size) or size
                layout[f"sketch_{name}"] = Slot((*block.batch, size, rank), "basis")
                layout[f"energies_{name}"] = Slot((*block.batch, rank), "vector")
                layout[f"escaped_{name}"] = Slot(block.batch, "vector")
        return layout

    def flops(self, shape: Shape, options: Options) -> Flops:
        """Return two thin products per side and step; per refresh, a product or two and a decomposition (9 b^3)."""
        step = refresh = 0.0
        for block in block_shapes(shape, options["block_size"]):
            blocks = block.rows.count * block.columns.count
            (_, b_m), (_, b_n) = block.sides
            for b, c in ((b_m, b_n), (b_n, b_m)):
                rank = resolve_rank(options["rank"], b) or b
                step += blocks * (4 * b * c * rank + 2 * b * c)
                if rank + c < b:
                    thin = rank + c
                    refresh += blocks * (2 * b * thin**2 + 9 * thin**3 + 2 * b * thin * rank)
                else:
                    refresh += blocks * (2 * b * b * (rank + c) + 9 * b**3)
        return Flops(step, refresh, step + refresh)

    def accumulate(self, G: Tensor, state: State, t: int, options: Options) -> None:
        """Take the t-th gradient into the sketches, if it is one of those that are."""
        updates = int(state["refreshes"])
        if updates > 0 and (t - 1) % options["period"] != 0:
            return
        old = new = 1.0
        if options["accumulation"] == "ema":
            old = debiased(options["betas"][1] ** options["period"], updates + 1)
            new = 1 - old
        total = kept = 0
        for block in block_shapes(G.shape, options["block_size"]):
            blocks = block.cut(G).flatten(0, 1)
            for (name, _), X in zip(block.sides, (blocks, blocks.mT), strict=True):
                total += len(X)
                kept += _renew(_sketches(state, name), X, old, new)
        state["refreshes"].add_(kept < total)
        if kept:
            state["kept_bases"].add_(kept)
            warnings.warn(f"{kept} sketches were kept: no finite decomposition", stacklevel=2)

    def precondition(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Return the direction."""
        del t
        direction = torch.empty_like(G, memory_format=torch.contiguous_format)
        for block in block_shapes(G.shape, options["block_size"]):
            (left, _), (right, _) = block.sides
            X = _rooted(block.cut(G), state, left, options["eps"])
            X = _rooted(X.mT, state, right, options["eps"]).mT
            block.cut(direction).copy_(X)
        return direction


def frequent_directions(
    U: Tensor, s: Tensor, X: Tensor, old: float, new: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sketch of C = old U diag(s) U^T + new X X^T with as many directions as U, and its residual norm.

    Args:
        U: Shape (..., b, l), columns orthonormal or zero.
        s: Shape (..., l), >= 0, zero where U's column is.
        X: Shape (..., b, c).
        old: >= 0.
        new: >= 0.

    Returns:
        U and s of those shapes and rho of shape (...), with 0 <= C - U diag(s) U^T <= rho I; all in X's dtype.

    Raises:
        torch.linalg.LinAlgError: `eigh` does not converge.
    """
    (b, rank), c = U.shape[-2:], X.shape[-1]
    F = torch.cat((U * (old * s).sqrt()[..., None, :], X * new**0.5), -1)
    is_thin = rank + c < b
    values, vectors = torch.linalg.eigh(F.mT @ F if is_thin else F @ F.mT)
    values, vectors = values.clamp_min(0).flip(-1), vectors.flip(-1)[..., :rank]
    residual = values[..., rank] if rank < values.shape[-1] else torch.zeros_like(values[..., 0])
    leading = values[..., :rank]
    if is_thin:
        kept = leading > _SMALLEST_SHARE * leading[..., :1]
        vectors = F @ (vectors * torch.where(kept, leading, torch.inf).rsqrt()[..., None, :])
        leading = torch.where(kept, leading, residual[..., None])
    return vectors, (leading - residual[..., None]).clamp_min(0), residual


def _sketches(state: State, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, s and rho of one side of all blocks of a shape, as batches of one dimension."""
    U, s, rho = (state[f"{part}_{name}"] for part in ("sketch", "energies", "escaped"))
    return U.flatten(0, 1), s.flatten(0, 1), rho.flatten()


def _renew(sketches: tuple[Tensor, Tensor, Tensor], X: Tensor, old: float, new: float) -> int:
    """Take X into the sketches, a bounded number at a time; return how many were kept as they were."""
    count, b, c = X.shape
    joined = sketches[0].shape[-1] + c
    wide = torch.float64 if min(b, joined) <= FLOAT64_MAX_SIDE else torch.float32
    kept = 0
    for chunk in chunks(count, max(b, joined)):
        U, s, rho = (part[chunk] for part in sketches)
        try:
            taken = frequent_directions(U.to(wide), s.to(wide), X[chunk].to(wide), old, new)
        except LinAlgError:
            kept += len(rho)
            continue
        renewed = (taken[0].to(U.dtype), taken[1].to(s.dtype), (old * rho + taken[2]).to(rho.dtype))
        # The wait for the device that a refresh may have. Fake tensors have no values to wait for.
        if isinstance(X, FakeTensor) or all(bool(torch.isfinite(v).all()) for v in renewed):
            for part, value in zip((U, s, rho), renewed, strict=True):
                part.copy_(value)
        else:
            kept += len(rho)
    return kept


def _rooted(X: Tensor, state: State, name: str, eps: float) -> Tensor:
    """Return (U diag(s) U^T + (rho + eps |.|) I)^(-1/4) X for every block; X where nothing has been seen.

    With a = rho + eps |.| it is a^(-1/4) X + U diag((s + a)^(-1/4) - a^(-1/4)) U^T X. The l powers are taken in
    float64, where the squares of the smallest gradients are not lost.
    """
    U = state[f"sketch_{name}"].to(X.dtype)
    s, rho = (state[f"{part}_{name}"].double() for part in ("energies", "escaped"))
    largest = s[..., 0] + rho
    ridge = max(eps, torch.finfo(X.dtype).eps) * largest
    a = torch.where(largest > 0, rho + ridge, 1.0)[..., None]
    outside = a.pow(-0.25)
    inside = ((s + a).pow(-0.25) - outside).to(X.dtype)
    return (X * outside[..., None].to(X.dtype)).add_(U @ (inside[..., None] * (U.mT @ X)))
