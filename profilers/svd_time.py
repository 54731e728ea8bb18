"""How long a full singular value decomposition would take: predicted, since that of a large layer takes hours."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from subopt.optimizers import matrix_shape
from subopt.optimizers.decompositions import two_sided_bases

# Side of the matrix the device is timed on. Larger ones run at a higher rate, so predictions err on the long side.
_PROBE_SIDE = 256
_PROBE_RUNS = 3


def full_svd_flops(m: int, n: int) -> float:
    """FLOPs of all singular vectors of an m x n matrix, m <= n: 4 n^2 m + 8 n m^2 + 9 m^3.

    Source: Golub and Van Loan, Matrix Computations, section 8.6, Golub-Reinsch algorithm with both bases complete.
    """
    return 4.0 * n * n * m + 8.0 * n * m * m + 9.0 * m**3


def full_svd_flops_per_s(device: torch.device) -> float:
    """Measure the rate of a full float64 decomposition on a device: the fastest of a few small ones."""
    generator = torch.Generator(device).manual_seed(0)
    G = torch.randn(_PROBE_SIDE, _PROBE_SIDE, generator=generator, device=device)
    times_s = [_seconds(G) for _ in range(_PROBE_RUNS)]
    return full_svd_flops(_PROBE_SIDE, _PROBE_SIDE) / min(times_s)


def is_svd_quick(shape: tuple[int, int]) -> bool:
    """Return whether a decomposition is no larger than the one a device is timed with."""
    return full_svd_flops(*shape) <= full_svd_flops(_PROBE_SIDE, _PROBE_SIDE)


def affordable_svds(weights: Mapping[str, Tensor], limit_s: float) -> set[str]:
    """Return the names of the weights whose full decomposition is predicted to stay within a limit.

    Each device is timed once, and only where a weight is larger than what it would be timed with.
    """
    rates: dict[torch.device, float] = {}
    found = set()
    for name, weight in weights.items():
        shape, device = matrix_shape(weight.shape), weight.device
        if not is_svd_quick(shape):
            rate = rates.get(device) or full_svd_flops_per_s(device)
            rates[device] = rate
            if full_svd_flops(*shape) > limit_s * rate:
                continue
        found.add(name)
    return found


def _seconds(G: torch.Tensor) -> float:
    _wait(G.device)
    start_s = time.perf_counter()
    two_sided_bases(G)
    _wait(G.device)
    return time.perf_counter() - start_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
