"""How diagonal a layer's second moment is, in its own coordinates and in those the optimizers rotate to.

C = (1/K) sum_k g_k g_k^T with g_k = vec(G_k) is mn x mn and never built. Two K x K matrices give both norms exactly:
||C||_F^2 = (1/K^2) sum_kl <G_k, G_l>^2 and ||diag C||^2 = (1/K^2) sum_kl <G_k^2, G_l^2>, squared entry by entry.
A rotation leaves the inner products of the gradients alone, so one K x K matrix of them serves all full bases and only
that of the squares is formed anew.

Legend: G m x n with m <= n, P m x m, Q n x n, rank r.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..record.profile import Diagonality, Ratio
from .rotated import unseen
from .spectrum import in_float64

# Fewer gradients leave the unbiased estimate with too few pairs to mean anything.
LEAST_FOR_UNBIASED = 4


class DiagonalityMeter:
    """Takes in K gradients block by block, in one basis after the other of `rotated.rotations`, and the truncated one.

    P and Q of the one- and two-sided bases are the first gradient's singular vectors, judged on the gradients after the
    first; the covariance's are fitted on the first half and judged on the others. With a single gradient these numbers
    are of that one and marked `in_sample`. Raw coordinates and stale bases are fitted to none of the gradients: all K
    count. low-rank: P[:, :r]^T G, divided by the norm of its own r n wide C.

    Args:
        gradients: The K gradients, m x n with m <= n; only their number and shape are used.
        rank: r of the truncated basis.
        products: Their K x K inner products, float64, in the units that the blocks are in.
    """

    def __init__(self, gradients: Sequence[Tensor], rank: int, products: Tensor) -> None:
        self._count = len(gradients)
        self._coordinates = gradients[0].numel()
        self._truncated = min(rank, len(gradients[0])) * gradients[0].shape[1]
        self._products = products
        self._low_rank_products = torch.zeros_like(products)
        self._squares: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros_like(products))

    def add(self, basis: str, start: int, block: Tensor, squares: Tensor) -> None:
        """Add the coordinates start .. start + s of all K gradients (K x s) and their squares."""
        self._squares[basis] += _gram(squares)
        if basis == "one_sided" and start < self._truncated:
            inside = slice(0, self._truncated - start)
            self._squares["low_rank"] += _gram(squares[:, inside])
            self._low_rank_products += _gram(block[:, inside])

    def result(self) -> Diagonality:
        """Return the ratio of every basis seen, and what white noise would give."""
        ratios: dict[str, Ratio] = {}
        white: dict[str, float] = {}
        for basis, squares in self._squares.items():
            judged, fitted = self._judged(basis)
            products, coordinates = self._products, self._coordinates
            if basis == "low_rank":
                products, coordinates = self._low_rank_products, self._truncated
            both = squares[judged, judged], products[judged, judged]
            ratios[basis] = diagonal_ratio(*both, in_sample=fitted)
            white |= _white_noise(basis, coordinates, *both)
        stale = {
            basis.removeprefix("stale_"): ratios.pop(basis)
            for basis in list(ratios)
            if basis.startswith("stale_")
        }
        return Diagonality(**ratios, stale=stale, white_noise=white)

    def _judged(self, basis: str) -> tuple[slice, bool]:
        """The gradients that a basis is judged on, and whether it was fitted to them."""
        if basis in ("one_sided", "two_sided", "low_rank"):
            return slice(1 % self._count, self._count), self._count == 1
        if basis == "covariance":
            return unseen(self._count), self._count == 1
        return slice(0, self._count), False


def diagonal_ratio(squares: Tensor, products: Tensor, *, in_sample: bool = False) -> Ratio:
    """Share of ||C||_F^2 on the diagonal, as it is and without its bias.

    ratio = sum_kl <G_k^2, G_l^2> / sum_kl <G_k, G_l>^2
    unbiased: the same sums over k != l

    The first is in (0, 1] and too low for few gradients, since a gradient agrees with itself. The second leaves those
    terms out and can therefore exceed 1.

    Args:
        squares: The K x K inner products of the squared gradients, in the coordinates in question.
        products: Those of the gradients.
        in_sample: Whether the coordinates were fitted to these gradients.

    Returns:
        The two shares; `ratio` is None where nothing of the gradients is left in these coordinates, `unbiased` where
        K < 4 or all gradients are orthogonal to one another.
    """
    whole = float(products.square().sum())
    between = float(_off_diagonal(products).square().sum())
    # Orthogonal gradients leave only rounding between them, and a quotient by that means nothing.
    floor = (1e-14 * float(products.trace())) ** 2
    has_pairs = len(products) >= LEAST_FOR_UNBIASED and between > floor
    return Ratio(
        ratio=float(squares.sum()) / whole if whole > 0 else None,
        unbiased=float(_off_diagonal(squares).sum()) / between if has_pairs else None,
        in_sample=in_sample,
    )


def white_noise_ratio(count: int, dimension: float) -> float:
    """E||diag C||^2 / E||C||_F^2 = (K + 2) / (K + d + 1) of K independent Gaussian gradients of d equal variances.

    For unequal variances v_i it holds with the effective dimension d = (sum v)^2 / sum v^2.
    """
    return (count + 2) / (count + dimension + 1)


def _white_noise(
    basis: str, coordinates: int, squares: Tensor, products: Tensor
) -> dict[str, float]:
    """The white-noise ratio by the number of coordinates, and by the effective dimension, where there are pairs.

    d_eff = sum_{k != l} |G_k|^2 |G_l|^2 / sum_{k != l} <G_k^2, G_l^2>: the quotient of unbiased estimates of (sum v)^2
    and of sum v^2. The plain (tr C)^2 / ||diag C||^2 is too low by a factor of K / (K + 2) on Gaussian gradients.
    """
    values = {basis: white_noise_ratio(len(products), coordinates)}
    between = float(_off_diagonal(squares).sum())
    if between > 0:
        lengths = products.diag()
        effective = float(_off_diagonal(torch.outer(lengths, lengths)).sum()) / between
        values[f"{basis}_effective"] = white_noise_ratio(len(products), effective)
    return values


def _gram(block: Tensor) -> Tensor:
    """Inner products of the rows, float64, on the CPU."""
    return in_float64(block @ block.mT).cpu()


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - matrix.diag().diag()
