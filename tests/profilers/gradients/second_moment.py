"""The mn x mn second moment of small layers, built entry by entry: what the profiler's numbers are held against."""

import torch

from subopt.profilers.gradients.diagonality import DiagonalityMeter
from subopt.profilers.gradients.rotated import rotations, unit_of, walk, working_copies


def gradients(count, m=4, n=6, seed=0, dtype=torch.float32):
    """Correlated gradients: a few shared directions under noise of unequal variances."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(2, m, n, generator=generator)
    variances = torch.linspace(0.2, 2, m * n).reshape(m, n)
    weights = torch.randn(count, 2, 1, 1, generator=generator)
    noise = torch.randn(count, m, n, generator=generator)
    return [G.to(dtype) for G in (weights * shared).sum(1) + 0.5 * noise * variances]


def second_moment(matrices):
    """C = (1/K) sum g g^T, float64."""
    vectors = [G.double().flatten() for G in matrices]
    return sum(torch.outer(g, g) for g in vectors) / len(vectors)


def inner_products(matrices):
    """All <G_k, G_l>, K x K, float64."""
    vectors = torch.stack([matrix.double().flatten() for matrix in matrices])
    return vectors @ vectors.T


def measure_diagonality(given, rank, *, two_sided=True, stale=None):
    """The diagonality of gradients in either orientation, taken alone."""
    working = working_copies(given)
    products = inner_products(working)
    unit = unit_of(products, working[0].numel())
    meter = DiagonalityMeter(working, rank, products / unit**2)

    def visit(basis, start, block):
        meter.add(basis, start, block, block.square())

    for fitted in rotations(working, two_sided=two_sided, stale=stale or {}):
        walk(working, fitted(), unit, visit)
    return meter.result()


def wide(G):
    return G if G.shape[0] <= G.shape[1] else G.T


def inverse_root(C, eps):
    """(C + eps I)^(-1/2) by its eigendecomposition."""
    values, vectors = torch.linalg.eigh(C)
    return vectors @ torch.diag((values.clamp_min(0) + eps).rsqrt()) @ vectors.T
