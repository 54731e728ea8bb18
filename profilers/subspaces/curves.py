"""What bases keep of later gradients, averaged over fits: the curves, and what they say about period and noise."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..gradients.spectrum import reported_ranks
from ..record.layer import SubspaceLife

# A refresh is due where, over a whole period, a basis keeps less than this share of what it keeps one step later.
PERIOD_SHARE = 0.9
# Standard deviations above chance from which a basis is more than noise: one random basis in 700 gets there.
NOISE_DEVIATIONS = 3.0


def captured_energy(P: Tensor, G: Tensor, ranks: Sequence[int]) -> list[float]:
    """Return ||P_r^T G||^2 for the leading r columns of P, for every r of `ranks`: all from one product.

    Args:
        P: Orthonormal columns, m x w, w at least the largest rank.
        G: A gradient of norm 1, m x n.
        ranks: Numbers of leading columns.
    """
    rows = (P.mT @ G).square().sum(1, dtype=torch.float64).cpu()
    held = rows.cumsum(0).clamp(max=1).tolist()
    return [held[rank - 1] for rank in ranks]


def supported_period(lags: Sequence[int], kept: Sequence[float]) -> int | None:
    """Return the longest T such that the mean of what is kept at ages 1 to T is at least 0.9 of that at age 1.

    Between the lags the curve is interpolated along log(age). It is of the energy itself, not of its excess over
    chance: where a fresh basis keeps hardly more than an old one, refreshing wins nothing.

    Args:
        lags: 1, 2, 5, ..., ascending.
        kept: Energy kept at each, shares.

    Returns:
        Steps, at least 1; None where it outlasts the longest lag, where age 1 was not judged or nothing was kept there.
    """
    if not lags or lags[0] != 1 or kept[0] <= 0:
        return None
    total = 0.0
    for age, value in _interpolated(lags, kept):
        total += value
        # The slack keeps rounding from ending a curve that meets the share exactly.
        if total < (PERIOD_SHARE - 1e-9) * kept[0] * age:
            return age - 1
    return None


def _interpolated(lags: Sequence[int], kept: Sequence[float]) -> Iterator[tuple[int, float]]:
    yield lags[0], kept[0]
    for i in range(len(lags) - 1):
        young, old = lags[i], lags[i + 1]
        for age in range(young + 1, old + 1):
            share = math.log(age / young) / math.log(old / young)
            yield age, kept[i] + share * (kept[i + 1] - kept[i])


def random_variance(m: int, rank: int, concentration: float) -> float:
    """Return the variance of the energy that a uniformly random r-dimensional subspace keeps of a gradient.

    Var = 2 m p (1 - p) (sum e_i^2 - 1/m) / ((m - 1)(m + 2)), p = r/m: the second moments of the orthogonal group,
    exact for every spectrum e_i (shares of the energy, sum 1).

    Args:
        m: Length of the basis vectors.
        rank: r.
        concentration: sum e_i^2, from 1/m (all directions alike) to 1 (one direction).
    """
    if m == 1:
        return 0.0
    p = rank / m
    return 2 * m * p * (1 - p) * max(0.0, concentration - 1 / m) / ((m - 1) * (m + 2))


class Curves:
    """Collects one layer's judgements; a few numbers each."""

    def __init__(self, m: int, rank: int) -> None:
        self._m = m
        self._rank = rank
        self.ranks = [rank, *reported_ranks(m)]
        self._frozen: dict[str, dict[int, list[list[float]]]] = {}
        self._tracked: dict[int, list[float]] = defaultdict(list)
        self._own: list[float] = []
        self._variances: list[float] = []

    def add_frozen(self, source: str, lag: int, kept: list[float]) -> None:
        """Add what a basis of this source kept at `ranks`."""
        self._frozen.setdefault(source, {}).setdefault(lag, []).append(kept)

    def add_tracked(self, lag: int, kept: float) -> None:
        """Add what the followed basis kept."""
        self._tracked[lag].append(kept)

    def add_judged(self, energy: Tensor) -> None:
        """Add the spectrum of a gradient judged at lag 1: energies, largest first, any scale."""
        shares = (energy / energy.sum()).tolist()
        self._own.append(min(1.0, sum(shares[: self._rank])))
        concentration = sum(share**2 for share in shares)
        self._variances.append(random_variance(self._m, self._rank, concentration))

    def result(self) -> dict[str, SubspaceLife]:
        """Return the mean curves by source; a source that was never judged at lag 1 is left out."""
        return {
            source: self._life(source, rows) for source, rows in self._frozen.items() if 1 in rows
        }

    def _life(self, source: str, rows: dict[int, list[list[float]]]) -> SubspaceLife:
        lags = sorted(rows)
        means = {lag: [_mean(column) for column in zip(*rows[lag], strict=True)] for lag in lags}
        frozen = [means[lag][0] for lag in lags]
        followed = source == "gradient" and all(lag in self._tracked for lag in lags)
        reported = enumerate(self.ranks[1:], start=1)
        return SubspaceLife(
            rank=self._rank,
            lag=lags,
            frozen=frozen,
            tracked=[_mean(self._tracked[lag]) for lag in lags] if followed else None,
            at_rank={str(rank): [means[lag][i] for lag in lags] for i, rank in reported},
            own=_mean(self._own),
            chance=self._rank / self._m,
            fits=len(rows[1]),
            period=supported_period(lags, frozen),
            is_noise=self._is_noise(frozen[0]),
        )

    def _is_noise(self, kept: float) -> bool:
        if self._rank >= self._m:
            return False
        deviation = math.sqrt(sum(self._variances)) / len(self._variances)
        return kept <= self._rank / self._m + NOISE_DEVIATIONS * deviation


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
