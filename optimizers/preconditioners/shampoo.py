"""Shampoo: one preconditioner for the rows and one for the columns of every block of a gradient matrix.

Legend: G m x n; blocks of b_m = min(block_size, m) rows and b_n = min(block_size, n) columns, the last ones smaller.
There are at most four shapes of block: whole or rest along either side. Everything is batched over a shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..bases.decompositions import LinAlgError
from ..flops import Flops
from ..options import Options, basis_dtype_field, choice, whole
from ..state.layout import Layout, Slot
from ..updates.averages import debiased
from ..updates.basis import Shape, State
from .grafting import GraftedOptions
from .matrix_roots import chunks, inverse_root

_COUNT = Slot((), "count")


@dataclass(frozen=True)
class ShampooOptions(GraftedOptions):
    """What Shampoo has beside grafting."""

    basis_dtype: str | None = basis_dtype_field()
    block_size: int = whole(512, 1, "largest side of a preconditioner's blocks")
    period: int = whole(200, 1, "steps between refreshes of the basis (T)")
    accumulation: str = choice(
        "ema", ("ema", "sum"), "whether a preconditioner averages its statistics or adds them up"
    )


@dataclass(frozen=True)
class Part:
    """`count` blocks of `size` rows, or columns, from `start` on."""

    name: str
    start: int
    count: int
    size: int

    @property
    def span(self) -> slice:
        """Return the rows, or columns, of all its blocks."""
        return slice(self.start, self.start + self.count * self.size)


def parts(side: int, block_size: int) -> tuple[Part, ...]:
    """Return the whole blocks of a side and, where they do not fill it, the one that remains."""
    size = min(block_size, side)
    count, rest = divmod(side, size)
    whole = Part("whole", 0, count, size)
    return (whole, Part("rest", count * size, 1, rest)) if rest else (whole,)


@dataclass(frozen=True)
class BlockShape:
    """The blocks of one part of the rows and one of the columns."""

    rows: Part
    columns: Part

    @property
    def sides(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Return the names of its two preconditioners and their sizes."""
        name = f"{self.rows.name}_{self.columns.name}"
        return (f"left_{name}", self.rows.size), (f"right_{name}", self.columns.size)

    @property
    def batch(self) -> tuple[int, int]:
        """Return how many blocks there are, along rows and columns."""
        return self.rows.count, self.columns.count

    def cut(self, G: Tensor) -> Tensor:
        """Return its blocks of G, shape (*batch, b_m, b_n), a view."""
        rows, columns = self.rows, self.columns
        blocks = G[rows.span, columns.span]
        return blocks.view(rows.count, rows.size, columns.count, columns.size).transpose(1, 2)


def block_shapes(shape: Sequence[int], block_size: int) -> Iterator[BlockShape]:
    """Return the block shapes of an m x n matrix: one to four."""
    m, n = shape
    return (BlockShape(r, c) for r in parts(m, block_size) for c in parts(n, block_size))


class Shampoo:
    """L = EMA[G G^T], R = EMA[G^T G], direction (L + eps |L| I)^(-1/4) G (R + eps |R| I)^(-1/4), block by block.

    |L| is the largest eigenvalue of L. `accumulation` "ema" takes bias-corrected averages with decay betas[1], "sum"
    adds up, as in Adagrad. The inverse roots are computed at `start_step` and from then on at t = 1, T + 1,
    2 T + 1, ... (T = `period`) and kept in between; the statistics follow every gradient. A decomposition that fails
    leaves the roots as they were and is counted, and so does a root with an entry that is not finite; roots that
    were never computed are the identity, and are tried again at the next step.

    Differs from the source: the ridge is relative (Gupta et al. start L and R from eps I, which a change of the
    loss' scale changes), averages are bias-corrected, and roots come from an `eigh` in float64, not from a
    Newton iteration in the statistics' own precision.

    Memory: b_m^2 + b_n^2 numbers per block in the basis dtype, twice: statistics and roots. A refresh needs three
    float64 copies of at most 64 MiB of blocks (or of one block).
    Source: Gupta et al. 2018, Shampoo, algorithm 1; blocks, delayed start and period: Anil et al. 2020, Scalable
    Second Order Optimization for Deep Learning, with the settings of Yen et al. 2023, section 3.
    """

    def layout(self, shape: Shape, options: Options) -> Layout:
        """Return the statistics, their inverse roots and the counters."""
        layout = {"refreshes": _COUNT, "kept_bases": _COUNT}
        for block in block_shapes(shape, options["block_size"]):
            for name, size in block.sides:
                batch = (*block.batch, size, size)
                layout[f"covariance_{name}"] = Slot(batch, "basis")
                layout[f"root_{name}"] = Slot(batch, "basis", identity=True)
        return layout

    def flops(self, shape: Shape, options: Options) -> Flops:
        """Return two products per side and step; per refresh, a decomposition (9 b^3) and a product (2 b^3)."""
        step = refresh = 0
        for block in block_shapes(shape, options["block_size"]):
            blocks = block.rows.count * block.columns.count
            b_m, b_n = block.rows.size, block.columns.size
            step += blocks * (4 * b_m * b_n * (b_m + b_n) + 3 * (b_m**2 + b_n**2))
            refresh += blocks * 11 * (b_m**3 + b_n**3)
        return Flops(step, refresh, step + refresh)

    def accumulate(self, G: Tensor, state: State, t: int, options: Options) -> None:
        """Take the t-th gradient into L and R of every block."""
        beta = debiased(options["betas"][1], t)
        old, new = (beta, 1 - beta) if options["accumulation"] == "ema" else (1.0, 1.0)
        for block in block_shapes(G.shape, options["block_size"]):
            blocks = block.cut(G)
            for (name, _), X in zip(block.sides, (blocks, blocks.mT), strict=True):
                _accumulate(state[f"covariance_{name}"], X, old, new)

    def precondition(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Return the direction, after a refresh of the roots where one is due."""
        if int(state["refreshes"]) == 0 or (t - 1) % options["period"] == 0:
            self._refresh(G, state, options)
        direction = torch.empty_like(G, memory_format=torch.contiguous_format)
        for block in block_shapes(G.shape, options["block_size"]):
            left, right = (state[f"root_{name}"].to(G.dtype) for name, _ in block.sides)
            block.cut(direction).copy_(left @ block.cut(G) @ right)
        return direction

    def _refresh(self, G: Tensor, state: State, options: Options) -> None:
        total = kept = 0
        for block in block_shapes(G.shape, options["block_size"]):
            for name, size in block.sides:
                roots = state[f"root_{name}"].view(-1, size, size)
                covariances = state[f"covariance_{name}"].view(-1, size, size)
                total += len(roots)
                kept += _renew(roots, covariances, options["eps"])
        state["refreshes"].add_(kept < total)
        if kept:
            state["kept_bases"].add_(kept)
            warnings.warn(f"{kept} preconditioners were kept: no finite inverse root", stacklevel=2)


def _accumulate(C: Tensor, X: Tensor, old: float, new: float) -> None:
    """Update C <- old * C + new * X X^T for every block, in X's precision."""
    gram = X @ X.mT
    if C.dtype == X.dtype:
        C.mul_(old).add_(gram, alpha=new)
    else:
        C.copy_(gram.mul_(new).add_(C, alpha=old))


def _renew(roots: Tensor, covariances: Tensor, eps: float) -> int:
    """Recompute inverse fourth roots, a bounded number at a time; return how many were kept as they were."""
    kept = 0
    for chunk in chunks(len(roots), roots.shape[-1]):
        try:
            renewed = inverse_root(covariances[chunk], 4, eps)
        except LinAlgError:
            kept += len(roots[chunk])
            continue
        # The wait for the device that a refresh may have. Fake tensors have no values to wait for.
        if isinstance(renewed, FakeTensor) or bool(torch.isfinite(renewed).all()):
            roots[chunk].copy_(renewed)
        else:
            kept += len(renewed)
    return kept
