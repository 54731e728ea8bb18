"""The mn x mn second moment of small layers, built entry by entry: what the profiler's numbers are held against."""

import torch


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


def wide(G):
    return G if G.shape[0] <= G.shape[1] else G.T


def inverse_root(C, eps):
    """(C + eps I)^(-1/2) by its eigendecomposition."""
    values, vectors = torch.linalg.eigh(C)
    return vectors @ torch.diag((values.clamp_min(0) + eps).rsqrt()) @ vectors.T
