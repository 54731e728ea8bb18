"""One layer's K gradients in rotated coordinates, a few rows at a time: P^T G_k Q for every k, never all of it at once.

Row i of P^T G_k Q needs column i of P alone, so each block of rows is computed once and handed to everything that is
measured in those coordinates. Legend: G m x n with m <= n, P m x m, Q n x n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from subopt.optimizers.bases.completion import completed, orthonormal_factor, solver_rounding
from subopt.optimizers.bases.decompositions import (
    LinAlgError,
    determined_eigenvectors,
    gram_basis,
    left_basis,
)
from subopt.optimizers.matrices import as_matrix

# Numbers of one block: small enough for a CPU's cache.
_BLOCK = 2**18
# Fewer rows than this make a matrix product wait for memory.
_LEAST_ROWS = 64
# Wider covariances are decomposed in float32: 1,376 in a third of float64's time.
_FLOAT64_MAX_SIDE = 256

Visit = Callable[[str, int, Tensor], None]


@dataclass(frozen=True)
class Rotation:
    """P, or None for the identity, and the coordinates it leads to: by name, Q or None for the identity."""

    left: Tensor | None
    rights: Mapping[str, Tensor | None]


def working_copies(gradients: Sequence[Tensor], device: torch.device | None = None) -> list[Tensor]:
    """Return the gradients, short side first, where the work is done, in float32 at least.

    The squares of a half-precision product would be lost.

    Memory: nothing for float32 gradients that are there already, else all of them.
    """
    return [as_matrix(G).to(device, torch.promote_types(G.dtype, torch.float32)) for G in gradients]


def unit_of(products: Tensor, coordinates: int) -> float:
    """The power of two next to the root mean square of the gradients' entries.

    In these units no fourth power that matters leaves float32's range, and dividing by it rounds nothing.

    Args:
        products: K x K inner products of the gradients, not all zero.
        coordinates: mn.
    """
    return float(2.0 ** round(math.log2(float(products.diag().mean()) / coordinates) / 2))


def fitted_count(count: int) -> int:
    """The number of gradients, from the first, that the covariance bases are fitted on: half of them, at least one."""
    return max(1, count // 2)


def unseen(count: int) -> slice:
    """The gradients that no basis was fitted on; with a single one, that one."""
    return slice(fitted_count(count) % count, count)


def rotations(
    gradients: Sequence[Tensor],
    *,
    two_sided: bool,
    stale: Mapping[int, Tensor],
    first_basis: Tensor | None = None,
) -> list[Callable[[], Rotation]]:
    """Return every rotation to judge, as a function that fits it: its bases need not outlive their turn.

    "raw": G;  "one_sided": P^T G;  "two_sided": P^T G Q, of the first gradient's singular vectors;
    "covariance": P^T G Q of the eigenvectors of sum G G^T and sum G^T G over the first half of the gradients;
    "stale_<lag>": P^T G of a given P.

    Args:
        gradients: K working copies.
        two_sided: Whether to make the bases that are n wide.
        stale: P, m x m, by lag.
        first_basis: `left_basis` of the first gradient where it is known already.
    """
    first = gradients[0]

    def of_first() -> Rotation:
        P = left_basis(first) if first_basis is None else first_basis
        rights = {"two_sided": right_basis(first, P)} if two_sided else {}
        return Rotation(P.to(first.dtype), {"one_sided": None, **rights})

    def of_covariance() -> Rotation:
        P, Q = covariance_bases(gradients[: fitted_count(len(gradients))])
        return Rotation(P.to(first.dtype), {"covariance": Q.to(first.dtype)})

    def of_stale(lag: int) -> Rotation:
        return Rotation(stale[lag].to(first), {f"stale_{lag}": None})

    fitted = [of_first, of_covariance] if two_sided else [of_first]
    return [lambda: Rotation(None, {"raw": None}), *fitted, *(partial(of_stale, x) for x in stale)]


def right_basis(G: Tensor, P: Tensor) -> Tensor:
    """All n right singular vectors of G (m x n, m <= n), from all its left ones: the Q of G^T P = Q R.

    The columns of G^T P are the right singular vectors times their singular values, largest first, so that Q's first m
    columns are those vectors. Those that G does not determine, the last n - m and more at a lower rank, are an
    orthonormal basis of its null space by `completed`, as the optimizers' are.

    The product is formed in P's precision and factored in G's: a QR factorization is as good for a column of any
    length, unlike the Gram matrix that P comes from.

    Returns:
        Q, n x n, in G's dtype.
    """
    product = G.mT.to(P.dtype) @ P
    noise = solver_rounding(G.dtype) * torch.linalg.matrix_norm(product)
    Q = orthonormal_factor(product.to(G.dtype), noise.to(G.dtype))
    return completed(Q, G.shape[1])


def covariance_bases(gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Eigenvectors of sum_k G_k G_k^T (m x m) and of sum_k G_k^T G_k (n x n), largest eigenvalue first.

    Differs from SOAP (Vyas et al. 2024), which averages with decay and follows the eigenvectors by a power step: here
    the sums are plain and solved outright. Where the gradients have fewer than n rows together, the last right vectors
    are a basis of their null space by `completed`.
    """
    return gram_eigenvectors(gradients), gram_eigenvectors([G.mT for G in gradients])


def gram_eigenvectors(matrices: Sequence[Tensor]) -> Tensor:
    """Eigenvectors of sum_k A_k A_k^T of matrices with equally many rows, largest eigenvalue first.

    More than 256 rows are summed and solved in the matrices' precision: float32 mixes directions that hold less than
    1e-7 of the largest one's energy with one another, which changes no share of energy by more than that.
    """
    side = matrices[0].shape[0]
    dtype = torch.float64 if side <= _FLOAT64_MAX_SIDE else matrices[0].dtype
    total = matrices[0].new_zeros(side, side, dtype=dtype)
    # The squares of very small or large entries leave float32's range; dividing by a power of two rounds nothing.
    largest = max(float(torch.linalg.vector_norm(matrix, ord=math.inf)) for matrix in matrices)
    unit = 2.0 ** math.frexp(largest)[1]
    for matrix in matrices:
        A = matrix.to(dtype) / unit
        total.addmm_(A, A.mT)
    return eigenvectors(total)


def eigenvectors(matrix: Tensor) -> Tensor:
    """All eigenvectors of a symmetric positive matrix in its own precision, largest eigenvalue first.

    Raises:
        torch.linalg.LinAlgError: They are not found in float64 either.
    """
    try:
        return completed(determined_eigenvectors(matrix), len(matrix))
    except LinAlgError:
        return gram_basis(matrix).to(matrix.dtype)


def walk(gradients: Sequence[Tensor], rotation: Rotation, unit: float, visit: Visit) -> None:
    """Hand all K gradients, rotated and divided by `unit`, to `visit`, a block of coordinates at a time.

    It is called as `visit(name, start, block)`: `block` is K x s, the coordinates start .. start + s of every gradient,
    counted along the rows, in the gradients' precision.

    Memory: two blocks of 2^18 numbers each, or of 64 rows of all K gradients.
    """
    m, n = gradients[0].shape
    step = min(m, max(_LEAST_ROWS, _BLOCK // (len(gradients) * n)))
    rows = gradients[0].new_empty(len(gradients), step, n)
    for start in range(0, m, step):
        block = rows[:, : m - start]
        _rotate_rows(gradients, rotation.left, start, unit, block)
        for name, Q in rotation.rights.items():
            visit(name, start * n, (block if Q is None else block @ Q).flatten(1))


def _rotate_rows(
    gradients: Sequence[Tensor], P: Tensor | None, start: int, unit: float, out: Tensor
) -> None:
    """Write rows start .. start + len of every P^T G_k / unit to `out`, K x len x n."""
    rows = slice(start, start + out.shape[1])
    PT = None if P is None else (P[:, rows] / unit).mT
    for G, rotated in zip(gradients, out, strict=True):
        if PT is None:
            torch.div(G[rows], unit, out=rotated)
        else:
            torch.mm(PT, G, out=rotated)
