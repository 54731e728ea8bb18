"""What lies off the diagonal of a layer's second moment: histograms of sampled entries, the same ones in every basis.

C_ij = (1/K) sum_k g_k[i] g_k[j] needs the gradients' coordinates i and j alone, so a sample of pairs costs K numbers
for each of its coordinates. Nguyen et al. 2025, figures 1, 12 and 13, show such histograms for two layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..record.profile import OffDiagonal
from .rotated import unseen

PAIRS = 20_000
# Shared by every basis and layer, in powers of ten: what lies beyond counts in the outermost bins.
LEAST_EXPONENT, GREATEST_EXPONENT, BINS = -8.0, 1.0, 36
_SEED = 20_241_105


class OffDiagonalMeter:
    """Picks the sampled coordinates out of K gradients, block by block, in one basis after the other.

    C is of the gradients that no basis was fitted on (the second half; with a single one, of that one), in every basis,
    because correlations of few gradients are large by chance: only those of equally many can be compared.

    Args:
        coordinates: mn, at least 2.
        products: The gradients' K x K inner products, in the units that the blocks are in.

    Memory: 2 K numbers per pair and basis.
    """

    def __init__(self, coordinates: int, products: Tensor) -> None:
        self._judged = unseen(len(products))
        # No rotation changes the trace.
        self._mean_diagonal = float(products.diag()[self._judged].mean()) / coordinates
        self._pairs = sampled_pairs(coordinates, PAIRS)
        self._sorted, order = self._pairs.flatten().sort()
        self._places = order.argsort()
        self._values: dict[str, Tensor] = {}

    def add(self, basis: str, start: int, block: Tensor) -> None:
        """Take from the coordinates start .. start + s of all K gradients (K x s) those that were sampled."""
        judged = block[self._judged]
        if basis not in self._values:
            shape = len(judged), self._sorted.numel()
            self._values[basis] = torch.zeros(shape, dtype=torch.float64)
        ends = torch.tensor([start, start + block.shape[1]])
        low, high = torch.searchsorted(self._sorted, ends).tolist()
        inside = (self._sorted[low:high] - start).to(block.device)
        self._values[basis][:, low:high] = judged[:, inside].cpu()

    def result(self) -> OffDiagonal:
        """Return both histograms for every basis seen."""
        absolute, scale_free = {}, {}
        for basis, values in self._values.items():
            first, second = values[:, self._places].unflatten(1, (2, -1)).unbind(1)
            entries = (first * second).mean(0).abs()
            both = first.square().mean(0) * second.square().mean(0)
            absolute[basis] = histogram(entries / self._mean_diagonal)
            # A coordinate that is always zero correlates with none; rounding must not carry a perfect one past 10^0.
            correlations = torch.where(both > 0, entries / both.sqrt(), 0.0)
            scale_free[basis] = histogram(correlations.clamp_max(1 - 1e-12))
        return OffDiagonal(
            pairs=self._pairs.shape[1],
            edges=_edges().tolist(),
            absolute=absolute,
            scale_free=scale_free,
        )


def sampled_pairs(coordinates: int, pairs: int) -> Tensor:
    """Draw pairs i != j of coordinates, uniformly and always the same ones: shape (2, pairs)."""
    generator = torch.Generator().manual_seed(_SEED)
    first = torch.randint(coordinates, (pairs,), generator=generator)
    second = torch.randint(coordinates - 1, (pairs,), generator=generator)
    return torch.stack([first, second + (second >= first)])


def histogram(values: Tensor) -> list[int]:
    """Count values >= 0 by their power of ten, zeros in the first bin."""
    bins = torch.bucketize(values.log10(), _edges(), right=True) - 1
    return torch.bincount(bins.clamp(0, BINS - 1), minlength=BINS).tolist()


def _edges() -> Tensor:
    return torch.linspace(LEAST_EXPONENT, GREATEST_EXPONENT, BINS + 1, dtype=torch.float64)
