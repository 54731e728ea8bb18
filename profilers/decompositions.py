"""What it costs to find a basis anew or to follow it: singular value decompositions against online PCA, timed here.

Legend: G m x n with m <= n, r rank, P m x m and B m x r orthonormal, T the steps between two refreshes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from subopt.optimizers.bases import resolve_rank
from subopt.optimizers.decompositions import left_basis
from subopt.optimizers.online_pca import pca_gradient

from .schema import Decomposition

LEAST_REPEATS = 3
MOST_REPEATS = 10
DEFAULT_BUDGET_S = 20.0
_ORTHO_WEIGHT = 0.1
# A repeat of a slow kernel runs it twice: once to warm up and choose the block size, once to measure.
_RUNS_PER_REPEAT = 2
_LEAST_RUN_S = 0.01


@dataclass(frozen=True)
class Problem:
    """The inputs of every kernel at one shape: a Gaussian gradient and random orthonormal bases."""

    G: Tensor
    P: Tensor
    B: Tensor


@dataclass(frozen=True)
class Kernel:
    """One way to find or follow a basis.

    Attributes:
        name: As the table prints it.
        run: Does it once.
        cadence: How often training does it: at every refresh of a decomposed basis, at every refresh of an accumulated
            one by a power step, or at every step.
    """

    name: str
    run: Callable[[Problem], object]
    cadence: Literal["refresh", "power", "step"]


@dataclass(frozen=True)
class Periods:
    """Training steps between two runs of a kernel, by its cadence."""

    refresh: int = 200
    power: int = 10
    step: int = 1


@dataclass(frozen=True)
class DecompositionTimes:
    """Measured rows of one shape, and a sentence where kernels were left out."""

    rows: list[Decomposition]
    skipped: list[str]


def qr_power_step(problem: Problem) -> Tensor:
    """One power step from an old full basis: the orthonormal factor of (G G^T) P."""
    Q: Tensor = torch.linalg.qr(problem.G @ problem.G.T @ problem.P)[0]
    return Q


def pca_autograd(problem: Problem) -> Tensor:
    """Gradient of ||B B^T Gn - Gn||^2 + lambda ||B^T B - I||^2 in B, Gn = G / ||G||, by autograd.

    The product B B^T is formed first, as in the released code of Liang et al. 2024 (eq. 6, figure 2).
    """
    G = problem.G / problem.G.norm()
    B = problem.B.detach().requires_grad_()
    residual = B @ B.T @ G - G
    excess = B.T @ B - torch.eye(B.shape[1], device=B.device, dtype=B.dtype)
    loss = residual.square().sum() + _ORTHO_WEIGHT * excess.square().sum()
    return torch.autograd.grad(loss, B)[0]


ONLINE_PCA = Kernel(
    "online PCA, closed form", lambda p: pca_gradient(p.B, p.G, _ORTHO_WEIGHT), "step"
)
KERNELS = (
    Kernel("svd, thin", lambda p: torch.linalg.svd(p.G, full_matrices=False), "refresh"),
    Kernel("svd, full", lambda p: torch.linalg.svd(p.G, full_matrices=True), "refresh"),
    Kernel("eigh of the Gram matrix", lambda p: left_basis(p.G), "refresh"),
    Kernel("QR power step", qr_power_step, "power"),
    Kernel("randomized svd", lambda p: torch.svd_lowrank(p.G, q=p.B.shape[1]), "refresh"),
    Kernel("online PCA, autograd", pca_autograd, "step"),
    ONLINE_PCA,
)


def time_shape(
    shape: tuple[int, int],
    count: int,
    rank: int | float,
    periods: Periods,
    device: torch.device,
    *,
    budget_s: float = DEFAULT_BUDGET_S,
) -> DecompositionTimes:
    """Time every kernel at one shape, in turns, within a budget.

    The kernels are repeated in rounds, each once per round, so that a disturbance of the machine falls on all of them:
    at least three rounds, then as many as the budget leaves room for, ten at most. What three repeats would cost is
    predicted from a quarter of the shape, by the cube of the size; kernels are taken from the cheapest up until the
    budget is used, and the rest are named in `skipped`.

    Args:
        shape: (m, n), in either orientation.
        count: Layers of this shape.
        rank: r, or a share of min(m, n).
        periods: Steps between two runs.
        device: Where to run.
        budget_s: Most seconds to spend, by that prediction.

    Returns:
        A row per kernel, median and interquartile range of a run in ms. `times_online_pca` is the median over the
        closed form's; `ms_per_training_step` is count * median / period. No rows where even the closed form costs too
        much.
    """
    m, n = sorted(shape)
    chosen, skipped = _affordable(m, n, rank, device, budget_s)
    if ONLINE_PCA not in chosen:
        return DecompositionTimes([], skipped)
    problem = make_problem(m, n, rank, device)
    samples = _rounds([_timer(kernel, problem) for kernel in chosen], budget_s)
    median_ms = {k.name: _quantile(times, 0.5) for k, times in zip(chosen, samples, strict=True)}
    rows = [
        Decomposition(
            shape=[m, n],
            rank=problem.B.shape[1],
            kernel=kernel.name,
            median_ms=median_ms[kernel.name],
            iqr_ms=_quantile(times, 0.75) - _quantile(times, 0.25),
            times_online_pca=median_ms[kernel.name] / median_ms[ONLINE_PCA.name],
            ms_per_training_step=count * median_ms[kernel.name] / getattr(periods, kernel.cadence),
            device=device_label(device),
        )
        for kernel, times in zip(chosen, samples, strict=True)
    ]
    return DecompositionTimes(rows, skipped)


def make_problem(m: int, n: int, rank: int | float, device: torch.device) -> Problem:
    """Draw a float32 Gaussian gradient and orthonormal bases, always the same for a shape."""
    generator = torch.Generator(device).manual_seed(0)
    G = torch.randn(m, n, generator=generator, device=device)
    P = torch.linalg.qr(torch.randn(m, m, generator=generator, device=device))[0]
    r = resolve_rank(rank, m) or m
    return Problem(G, P, P[:, :r].clone(memory_format=torch.contiguous_format))


def device_label(device: torch.device) -> str:
    """Name the device as the table prints it: the GPU's name, or the CPU with its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads != 1 else ''}"


def _affordable(
    m: int, n: int, rank: int | float, device: torch.device, budget_s: float
) -> tuple[list[Kernel], list[str]]:
    """Predict every kernel's cost at this shape; return those that fit in the budget and a note on the others."""
    small_m, small_n = math.ceil(m / 4), math.ceil(n / 4)
    r = resolve_rank(rank, m) or m
    small = make_problem(small_m, small_n, math.ceil(r / 4), device)
    growth = (m / small_m) ** 2 * (n / small_n)
    run_s = {kernel: _sample_ms(_timer(kernel, small)) / 1e3 * growth for kernel in KERNELS}
    chosen: set[Kernel] = set()
    left_out: list[str] = []
    left_s = budget_s
    for kernel in sorted(KERNELS, key=run_s.__getitem__):
        cost_s = LEAST_REPEATS * _RUNS_PER_REPEAT * run_s[kernel]
        if cost_s <= left_s:
            left_s -= cost_s
            chosen.add(kernel)
        else:
            left_out.append(f"{kernel.name} ({run_s[kernel]:.1f} s a run)")
    notes = [f"left out at {m} x {n} to stay within {budget_s:g} s: {', '.join(left_out)}"]
    return [kernel for kernel in KERNELS if kernel in chosen], notes if left_out else []


def _rounds(timers: list[Timer], budget_s: float) -> list[list[float]]:
    """Run the timers in turn; return each one's times in ms, one per round."""
    samples: list[list[float]] = [[] for _ in timers]
    start_s = time.perf_counter()
    for done in range(MOST_REPEATS):
        used_s = time.perf_counter() - start_s
        if done >= LEAST_REPEATS and used_s * (done + 1) / done > budget_s:
            break
        for times, timer in zip(samples, timers, strict=True):
            times.append(_sample_ms(timer))
    return samples


def _timer(kernel: Kernel, problem: Problem) -> Timer:
    return Timer(
        "run(problem)",
        globals={"run": kernel.run, "problem": problem},
        num_threads=torch.get_num_threads(),
    )


def _sample_ms(timer: Timer) -> float:
    """Time of one run after a warm-up, the median of a block where runs are short; waits for the GPU."""
    return timer.blocked_autorange(min_run_time=_LEAST_RUN_S).median * 1e3


def _quantile(values: list[float], share: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))
