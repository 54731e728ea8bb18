"""Gradient spectrum: how many directions of a layer's gradient carry its energy.

With the singular values s_1 >= s_2 >= ... of G, the energy of direction i is e_i = s_i^2 / sum s^2. None of it needs a
singular value decomposition: the eigenvalues of the smaller Gram matrix are s^2, and in float64 they are exact enough
(relative error of every number here below 1e-6) for a fifth of the time that float32 singular values take. Wide layers'
spectra are sketched: the leading directions, and the exact sum of the rest.

Legend: G m x n with m <= n, of rank up to m; l directions resolved by the sketch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subopt.optimizers.bases.decompositions import LinAlgError

from ..record.profile import Spectrum, Spread

ENERGY_SHARES = ("0.90", "0.95", "0.99")
RANK_DIVISORS = (16, 8, 4, 2)

# Narrower side from which spectra are sketched. Measured (benchmarks/results/profile_cpu_202611.md): from about there
# the exact spectrum of a gradient takes longer than forward and backward of 2048 tokens through its layer, and ever
# longer the wider it is; the sketch takes half as long or less.
SKETCH_FROM = 1536
# Elements that are in float64 at once while squares are summed.
_SLICE = 2**18
# Fewer rows at a time are slower than the FLOPs they save.
_LEAST_STRIP = 32


def solving_device(device: torch.device) -> torch.device:
    """Return where a device's tensors can be decomposed, in float64 too: there, or on the CPU for an Apple GPU."""
    return torch.device("cpu") if device.type == "mps" else device


def solvable(G: Tensor) -> Tensor:
    """Return G on the device where it can be decomposed."""
    return G.to(solving_device(G.device))


def in_float64(G: Tensor) -> Tensor:
    """Return G in float64, on its own device where that has the type (Apple's GPUs do not), else on the CPU."""
    return solvable(G).to(torch.float64)


def total_energy(G: Tensor) -> Tensor:
    """Sum of all squares, exact: in float64, of slices, for a float64 copy of a wide layer's gradient is large."""
    slices = [in_float64(piece) for piece in G.flatten().split(_SLICE)]
    return torch.stack([piece.dot(piece) for piece in slices]).sum()


def is_informative(G: Tensor) -> bool:
    """Tell whether a gradient can be measured: finite everywhere and not zero."""
    energy = total_energy(G)
    return bool(torch.isfinite(energy) & (energy > 0))


def lower_gram(G: Tensor, dtype: torch.dtype) -> Tensor:
    """The lower triangle of G G^T, of a matrix that is at least as wide as it is high.

    Summed over pieces of columns, of strips of rows: with eight of them, 9/16 of the FLOPs of the whole product.

    Args:
        G: m x n, m <= n, any float dtype.
        dtype: What products and sums are in.

    Returns:
        m x m; above the diagonal some of it is there and the rest is zero. `eigvalsh` reads the lower half alone.

    Memory: beside the result, m x m numbers of G in `dtype`, or 2^18 where that is more.
    """
    m = G.shape[0]
    strip = max(_LEAST_STRIP, -(-m // 8))
    gram = torch.zeros(m, m, dtype=dtype, device=G.device)
    for piece in G.split(max(m, _SLICE // m), dim=1):
        columns = piece.to(dtype)
        for top in range(0, m, strip):
            end = min(top + strip, m)
            gram[top:end, :end].addmm_(columns[top:end], columns[:end].mT)
    return gram


def energies(G: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Squared singular values of a matrix, largest first.

    s_i^2 = eigenvalues of G G^T or of G^T G, whichever is smaller.

    Args:
        G: A finite, nonzero matrix, m x n, any float dtype.
        dtype: What they are computed in. In float32 a share of the energy is off by less than 1e-6, and a number of
            directions by less than 1e-4 of it, but what is below 1e-7 of the largest is rounding; on a CPU it takes
            half the time.

    Returns:
        float64, min(m, n) values, none negative.

    Raises:
        torch.linalg.LinAlgError: The eigenvalues do not converge in float64 either.

    Memory: two min(m, n)^2 matrices, and the piece of G that `lower_gram` takes.
    """
    wide = solvable(G if G.shape[0] <= G.shape[1] else G.mT)
    scale = torch.ones((), dtype=torch.float64, device=wide.device)
    if dtype != torch.float64:
        # The square of a small gradient is nothing in float32.
        scale = total_energy(wide)
        wide = wide.to(dtype) / scale.sqrt()
    # Rounding can leave an eigenvalue of a singular Gram matrix just below zero.
    return _eigenvalues(lower_gram(wide, dtype)).to(torch.float64).flip(0).clamp_(min=0) * scale


def _eigenvalues(gram: Tensor) -> Tensor:
    """Return them in ascending order; solved in float64 where float32 does not converge."""
    try:
        values: Tensor = torch.linalg.eigvalsh(gram)
    except LinAlgError:
        values = torch.linalg.eigvalsh(gram.to(torch.float64))
    return values


def sketch_rank(m: int) -> int:
    """l, the directions of m that a sketch resolves: a quarter, the highest rank in common use, and m / 16 to spare.

    Its four products with G then take 2.5 m^2 n FLOPs together; one m x n by n x m product takes 2.
    """
    return m // 4 + m // 16


def sketched_energies(G: Tensor, directions: int) -> Tensor:
    """Squared singular values of a matrix, the leading ones from a randomized sketch, the others as their mean.

    Range finder with one power iteration, G scaled to unit norm, float32, from a fixed seed:
        Y = orth(G orth(G^T Omega)), Omega m x l Gaussian;  theta = eigenvalues of Y^T G G^T Y;
        energies = (theta_1, ..., theta_l, t, ..., t) |G|^2 with t = (1 - sum theta) / (m - l).

    The result is majorized by the true energies: every sum of its leading entries is at most the true one, for it is
    the diagonal of G G^T in a basis that begins with the Ritz vectors, its rest averaged (Schur and Horn's theorem).
    So, up to float32 rounding of 1e-6, `energy_at_rank` is never too high, and `rank_at_energy`, `effective_rank` and
    `stable_rank` are never too low. How far off depends on the decay. At rank m / 4, with l = 5 m / 16, the share of
    the energy that is missed was 0.002 where it falls by e every m / 16 directions, 0.04 where it falls as 1 / i, and
    0.1 on white noise, the worst case; at rank m / 8 half of that or less.

    Args:
        G: A finite, nonzero matrix in either orientation, any float dtype.
        directions: l, from 1 to min(m, n).

    Returns:
        float64, min(m, n) values, largest first, none negative, their sum |G|^2.

    Time: 8 m n l FLOPs of products, and two orthogonalisations of l vectors.
    Memory: G in float32, and four matrices of l columns or rows.
    Source: Halko, Martinsson and Tropp 2011, algorithm 4.4 with q = 1, in the order that takes the Gaussian matrix to
        the narrow side; the bounds are ours.
    """
    total = total_energy(G)
    wide = solvable(G if G.shape[0] <= G.shape[1] else G.T).to(torch.float32) / total.sqrt()
    m = wide.shape[0]
    generator = torch.Generator(wide.device).manual_seed(0)
    start = torch.randn(m, directions, generator=generator, device=wide.device, dtype=wide.dtype)
    rows = torch.linalg.qr(wide.T @ start).Q
    captured = torch.linalg.qr(wide @ rows).Q.T @ wide
    theta = torch.linalg.eigvalsh(in_float64(captured @ captured.T)).flip(0).clamp_(min=0)
    rest = (1 - theta.sum()).clamp_(min=0)
    # The mean of the rest can be above theta_l where the sketch found little.
    tail = (rest / max(1, m - directions)).expand(m - directions)
    return torch.cat([theta, tail]).sort(descending=True).values * total


def stable_rank(energy: Tensor) -> float:
    """Sum s^2 / s_1^2: 1 for a rank-one matrix, min(m, n) for an orthogonal one."""
    return float(energy.sum() / energy[0])


def effective_rank(energy: Tensor) -> float:
    """exp(-sum e_i log e_i): the exponential of the entropy of the energy shares."""
    return float(torch.special.entr(energy / energy.sum()).sum().exp())


def rank_at_energy(energy: Tensor, share: float) -> int:
    """The fewest leading directions that hold at least this share of the energy."""
    held = energy.cumsum(0) / energy.sum()
    # The slack keeps a share that is met exactly (9 of 10 equal directions hold .9) from being lost to rounding.
    return int((held < share - 1e-12).sum()) + 1


def energy_at_rank(energy: Tensor, rank: int) -> float:
    """Share of the energy in the `rank` leading directions: what a projection of that rank keeps."""
    # Two sums of the same numbers can differ in the last digit.
    return min(1.0, float(energy[:rank].sum() / energy.sum()))


def reported_ranks(m: int) -> list[int]:
    """The ranks at which the energy is reported: m/16, m/8, m/4, m/2, each at least 1, without repeats."""
    return sorted({max(1, m // divisor) for divisor in RANK_DIVISORS})


class SpectrumAccumulator:
    """Collects the spectra of one layer's gradients, a few numbers per batch.

    A gradient that is zero or not finite has no spectrum and is left out. One whose narrower side is `sketch_from` or
    more is sketched (see `sketched_energies`).
    """

    def __init__(self, sketch_from: int = SKETCH_FROM) -> None:
        self._sketch_from = sketch_from
        self._sketched_rank: int | None = None
        self._rows: list[dict[str, float]] = []

    def add(self, G: Tensor) -> None:
        """Measure one batch's gradient, an m x n matrix in either orientation; nothing of it is kept."""
        if not is_informative(G):
            return
        m = min(G.shape)
        if m >= self._sketch_from:
            self._sketched_rank = sketch_rank(m)
            energy = sketched_energies(G, self._sketched_rank)
        else:
            energy = energies(G)
        energy = energy.cpu()  # a GPU would be waited for at each of the numbers below
        row = {"stable": stable_rank(energy), "effective": effective_rank(energy)}
        row |= {share: float(rank_at_energy(energy, float(share))) for share in ENERGY_SHARES}
        row |= {str(r): energy_at_rank(energy, r) for r in reported_ranks(m)}
        self._rows.append(row)

    def result(self) -> Spectrum | None:
        """Mean, least and greatest of every number over the batches, or None where no gradient could be measured."""
        if not self._rows:
            return None
        spreads = {key: _spread([row[key] for row in self._rows]) for key in self._rows[0]}
        return Spectrum(
            stable_rank=spreads.pop("stable"),
            effective_rank=spreads.pop("effective"),
            rank_at_energy={share: spreads.pop(share) for share in ENERGY_SHARES},
            energy_at_rank=spreads,
            sketched_rank=self._sketched_rank,
            batches=len(self._rows),
        )


def _spread(values: list[float]) -> Spread:
    return Spread(mean=sum(values) / len(values), min=min(values), max=max(values))
