"""How long a layer's two-sided bases would take: predicted, since those of a large layer take an hour."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from subopt.optimizers import matrix_shape
from subopt.optimizers.bases.decompositions import left_basis

from ..timing.clock import timed_ms
from .rotated import covariance_bases, right_basis
from .spectrum import solving_device

# Side of the matrix the device is timed on. Larger ones run at a higher rate, so predictions err on the long side.
_PROBE_SIDE = 512
_PROBE_RUNS = 3


def bases_flops(m: int, n: int) -> float:
    """FLOPs of the bases that are n wide, of an m x n matrix with m <= n: 9 n^3 + 9 m^3 + 4 n^2 m, about.

    Two symmetric eigenproblems with vectors (the covariances) and a QR factorization completed to n columns.
    Source: Golub and Van Loan, Matrix Computations, sections 8.3 and 5.2, leading terms.
    """
    return 9.0 * n**3 + 9.0 * m**3 + 4.0 * n * n * m


def bases_flops_per_s(device: torch.device) -> float:
    """Measure a device's rate at them: the fastest of a few small ones."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (_PROBE_SIDE, _PROBE_SIDE)
    G = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    P = left_basis(G)

    def find() -> None:
        right_basis(G, P)
        covariance_bases([G])

    least_ms = min(timed_ms(find, {G.device}) for _ in range(_PROBE_RUNS))
    return bases_flops(_PROBE_SIDE, _PROBE_SIDE) / (least_ms / 1e3)


def are_quick(shape: tuple[int, int]) -> bool:
    """Return whether a matrix's bases take no more work than those a device is timed with."""
    return bases_flops(*shape) <= bases_flops(_PROBE_SIDE, _PROBE_SIDE)


def affordable_bases(weights: Mapping[str, Tensor], limit_s: float) -> set[str]:
    """Return the names of the weights whose two-sided bases are predicted to stay within a limit.

    Each device is timed once, and only where a weight is larger than what it would be timed with.
    """
    rates: dict[torch.device, float] = {}
    found = set()
    for name, weight in weights.items():
        shape, device = matrix_shape(weight.shape), solving_device(weight.device)
        if not are_quick(shape):
            rate = rates.get(device) or bases_flops_per_s(device)
            rates[device] = rate
            if bases_flops(*shape) > limit_s * rate:
                continue
        found.add(name)
    return found
