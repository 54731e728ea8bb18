"""Gradient spectrum: how many directions of a layer's gradient carry its energy.

With the singular values s_1 >= s_2 >= ... of G, the energy of direction i is e_i = s_i^2 / sum s^2. None of it needs a
singular value decomposition: the eigenvalues of the smaller Gram matrix are s^2, and in float64 they are exact enough
(relative error of every number here below 1e-6) for less time than float32 singular values take.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .schema import Spectrum, Spread

ENERGY_SHARES = ("0.90", "0.95", "0.99")
RANK_DIVISORS = (16, 8, 4, 2)


def in_float64(G: Tensor) -> Tensor:
    """Return G in float64, on its own device where that has the type (Apple's GPUs do not), else on the CPU."""
    return (G.cpu() if G.device.type == "mps" else G).to(torch.float64)


def is_informative(G: Tensor) -> bool:
    """Tell whether a gradient can be measured: finite everywhere and not zero."""
    energy = in_float64(G).square().sum()
    return bool(torch.isfinite(energy) & (energy > 0))


def energies(G: Tensor) -> Tensor:
    """Squared singular values of a matrix, largest first.

    s_i^2 = eigenvalues of G G^T or of G^T G, whichever is smaller.

    Args:
        G: A finite matrix, m x n, any float dtype.

    Returns:
        float64, min(m, n) values, none negative.

    Memory: a float64 copy of G and two min(m, n)^2 matrices.
    """
    exact = in_float64(G)
    gram = exact @ exact.T if exact.shape[0] <= exact.shape[1] else exact.T @ exact
    # Rounding can leave an eigenvalue of a singular Gram matrix just below zero.
    energy: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp_(min=0)
    return energy


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
    return float(energy[:rank].sum() / energy.sum())


def reported_ranks(m: int) -> list[int]:
    """The ranks at which the energy is reported: m/16, m/8, m/4, m/2, each at least 1, without repeats."""
    return sorted({max(1, m // divisor) for divisor in RANK_DIVISORS})


class SpectrumAccumulator:
    """Collects the spectra of one layer's gradients, a few numbers per batch.

    A gradient that is zero or not finite has no spectrum and is left out.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def add(self, G: Tensor) -> None:
        """Measure one batch's gradient, an m x n matrix in either orientation; nothing of it is kept."""
        if not is_informative(G):
            return
        energy = energies(G)
        row = {"stable": stable_rank(energy), "effective": effective_rank(energy)}
        row |= {share: float(rank_at_energy(energy, float(share))) for share in ENERGY_SHARES}
        row |= {str(r): energy_at_rank(energy, r) for r in reported_ranks(min(G.shape))}
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
        )


def _spread(values: list[float]) -> Spread:
    return Spread(mean=sum(values) / len(values), min=min(values), max=max(values))
