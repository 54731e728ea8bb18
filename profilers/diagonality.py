"""How diagonal a layer's second moment is, in its own coordinates and in those the optimizers rotate to.

C = (1/K) sum_k g_k g_k^T with g_k = vec(G_k) is mn x mn and never built. Two sums over the K gradients give both norms
exactly: ||C||_F^2 = (1/K^2) sum_kl <G_k, G_l>^2 and ||diag C||^2 = sum_ij ((1/K) sum_k G_k[i,j]^2)^2. A rotation leaves
every inner product alone, so one K x K matrix of them serves all full bases and only the squares are formed anew.

Legend: G m x n with m <= n, P m x m, Q n x n, rank r.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from subopt.optimizers.decompositions import left_basis, two_sided_bases
from subopt.optimizers.matrices import as_matrix

from .schema import Diagonality, Ratio
from .spectrum import in_float64, is_informative

# Fewer gradients leave the unbiased estimate with too few pairs to mean anything.
LEAST_FOR_UNBIASED = 4
# Elements of each gradient that are in float64 at once while inner products are summed.
_SLICE = 2**18


class DiagonalityAccumulator:
    """Holds the K gradients of one layer, for the K x K inner products need them in pairs.

    A gradient that is zero or not finite says nothing about C and is left out.

    Args:
        rank: r of the truncated basis; at most min(m, n) is used.
        two_sided: Whether the two-sided basis is measured too; it takes a full decomposition.

    Memory: K m n elements in the gradients' dtype, in CPU memory.
    """

    def __init__(self, rank: int, *, two_sided: bool = True) -> None:
        self._rank = rank
        self._two_sided = two_sided
        self._held: list[Tensor] = []
        self._device = torch.device("cpu")

    def add(self, G: Tensor) -> None:
        """Keep a copy of one batch's gradient, a matrix in either orientation, in CPU memory."""
        if is_informative(G):
            self._device = G.device
            self._held.append(G.detach().to("cpu", copy=True).contiguous())

    def result(self) -> Diagonality | None:
        """Measure and let go of the gradients; None where there were none to measure."""
        held, self._held = self._held, []
        if not held:
            return None
        return measure_diagonality(held, self._rank, self._device, two_sided=self._two_sided)


def measure_diagonality(
    gradients: Sequence[Tensor],
    rank: int,
    device: torch.device | None = None,
    *,
    two_sided: bool = True,
) -> Diagonality:
    """Diagonality of C raw, in the one- and two-sided SVD bases, and in the truncated one.

    raw: G;  one-sided: P^T G;  two-sided: P^T G Q;  low-rank: P[:, :r]^T G, divided by the norm of its own r n wide C.
    P and Q are the first gradient's singular vectors, and every rotated number is of the gradients after the first;
    with a single gradient it is of that one and marked `in_sample`. Raw coordinates are fitted to nothing: all K count.

    Args:
        gradients: K >= 1 finite, nonzero matrices of one shape, in either orientation, on any device.
        rank: r, at least 1.
        device: Where to compute; the CPU by default.
        two_sided: Whether to measure the two-sided basis, which takes all n right singular vectors.

    Returns:
        A ratio per basis (None for a two-sided one that was not asked for), and `white_noise` with two numbers per
        basis: `<basis>` and `<basis>_effective` (see `white_noise_ratio`).

    Memory: beyond the gradients themselves, P and Q (m^2 + n^2), three float64 accumulators and four temporaries of
    m n, and the K projections of r n, on `device`.
    """
    first, *rest = (as_matrix(G) for G in gradients)
    judged = rest or [first]
    G = _working(first, device)
    bases = two_sided_bases(G) if two_sided else (left_basis(G),)
    P, *Qs = (basis.to(G.dtype) for basis in bases)
    raw, one_sided, both_sides, low_rank = (DiagonalSums() for _ in range(4))
    projections = []
    if rest:
        raw.add(G)
    for held in judged:
        G = _working(held, device)
        raw.add(G)
        rotated = P.T @ G
        one_sided.add(rotated)
        for Q in Qs:
            both_sides.add(rotated @ Q)
        projected = rotated[:rank].clone()  # a view would keep all of the rotated gradient alive
        low_rank.add(projected)
        projections.append(projected)
    products = inner_products(gradients, device)
    judged_products = products[-len(judged) :, -len(judged) :]
    measured = {
        "raw": (raw, products),
        "one_sided": (one_sided, judged_products),
        "low_rank": (low_rank, inner_products(projections, device)),
    }
    if two_sided:
        measured["two_sided"] = (both_sides, judged_products)
    ratios = {
        basis: diagonal_ratio(sums, inner, in_sample=basis != "raw" and not rest)
        for basis, (sums, inner) in measured.items()
    }
    white = {
        key: value
        for basis, (sums, inner) in measured.items()
        for key, value in _white_noise(basis, sums, inner).items()
    }
    return Diagonality(**ratios, white_noise=white)


class DiagonalSums:
    """The sums over gradients that the diagonal of C is made of, in one set of coordinates.

    Attributes:
        count: Gradients seen.
        squares: sum_k G_k[i,j]^2, float64, the shape of the gradients.
        fourth: sum_kij G_k[i,j]^4.
    """

    def __init__(self) -> None:
        self.count = 0
        self.squares = torch.zeros(())
        self.fourth = 0.0

    def add(self, X: Tensor) -> None:
        """Add one gradient in these coordinates."""
        square = in_float64(X).square()
        self.fourth += float(torch.linalg.vector_norm(square)) ** 2
        self.squares = square if self.count == 0 else self.squares.add_(square)
        self.count += 1


def inner_products(matrices: Sequence[Tensor], device: torch.device | None = None) -> Tensor:
    """All <G_k, G_l> of K matrices of one shape, as a K x K float64 matrix.

    Memory: a slice of the matrices at a time is copied to float64, never all of them.
    """
    vectors = [matrix.reshape(-1) for matrix in matrices]
    total = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for start in range(0, vectors[0].numel(), _SLICE):
        pieces = [vector[start : start + _SLICE].to(device) for vector in vectors]
        block = in_float64(torch.stack(pieces))
        total += (block @ block.T).cpu()
    return total


def diagonal_ratio(sums: DiagonalSums, products: Tensor, *, in_sample: bool = False) -> Ratio:
    """Share of ||C||_F^2 on the diagonal, as the sums give it and without its bias.

    ratio = sum_i (sum_k g_ki^2)^2 / sum_kl <G_k, G_l>^2
    unbiased = [sum_i (sum_k g_ki^2)^2 - sum_ki g_ki^4] / sum_{k != l} <G_k, G_l>^2

    The first is in (0, 1] and too low for few gradients, since a gradient agrees with itself. The second leaves those
    terms out and can therefore exceed 1.

    Args:
        sums: Of the K gradients, in the coordinates in question.
        products: Their K x K inner products, float64.
        in_sample: Whether the coordinates were fitted to these gradients.

    Returns:
        The two shares; `ratio` is None where nothing of the gradients is left in these coordinates, `unbiased` where
        K < 4 or all gradients are orthogonal to one another.
    """
    diagonal = float(sums.squares.square().sum())
    whole = float(products.square().sum())
    between = float((products - products.diag().diag()).square().sum())
    # Orthogonal gradients leave only rounding between them, and a quotient by that means nothing.
    floor = (1e-14 * float(products.trace())) ** 2
    has_pairs = sums.count >= LEAST_FOR_UNBIASED and between > floor
    return Ratio(
        ratio=diagonal / whole if whole > 0 else None,
        unbiased=(diagonal - sums.fourth) / between if has_pairs else None,
        in_sample=in_sample,
    )


def white_noise_ratio(count: int, dimension: float) -> float:
    """E||diag C||^2 / E||C||_F^2 = (K + 2) / (K + d + 1) of K independent Gaussian gradients of d equal variances.

    For unequal variances v_i it holds with the effective dimension d = (sum v)^2 / sum v^2.
    """
    return (count + 2) / (count + dimension + 1)


def _white_noise(basis: str, sums: DiagonalSums, products: Tensor) -> dict[str, float]:
    """The white-noise ratio by the number of coordinates, and by d_eff = (tr C)^2 / ||diag C||^2."""
    values = {basis: white_noise_ratio(sums.count, sums.squares.numel())}
    diagonal = float(sums.squares.square().sum())
    if diagonal > 0:
        effective = float(products.trace()) ** 2 / diagonal
        values[f"{basis}_effective"] = white_noise_ratio(sums.count, effective)
    return values


def _working(G: Tensor, device: torch.device | None) -> Tensor:
    """G where the work is done, in float32 at least: the squares of a half-precision product would be lost."""
    return G.to(device, torch.promote_types(G.dtype, torch.float32))
