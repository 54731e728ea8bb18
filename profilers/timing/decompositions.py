"""What it costs to find a basis anew or to follow it: singular value decompositions against online PCA, timed here."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from subopt.optimizers.updates.basis import resolve_rank

from ..record.profile import Decomposition
from .clock import timed_ms
from .kernels import (
    KERNELS,
    ONLINE_PCA,
    Kernel,
    KernelInputs,
    accepted_drivers,
    library_routine,
    make_problem,
    use_of,
)

LEAST_REPEATS = 3
MOST_REPEATS = 10
DEFAULT_BUDGET_S = 20.0
# Runs of a slow kernel: one warms up and finds how many make a block, then one for each repeat.
_LEAST_RUNS = 1 + LEAST_REPEATS
_LEAST_RUN_S = 0.01
# Runs of a quarter of the shape after a first one: other work easily gets into so short a time, so the least counts.
_PREDICTIONS = 4


@dataclass(frozen=True)
class DecompositionTimes:
    """Measured rows of one shape, and a sentence where kernels were left out."""

    rows: list[Decomposition]
    skipped: list[str]


@dataclass(frozen=True)
class Block:
    """So many runs of a kernel, one after another, that a clock can time them."""

    run: Callable[[], object]
    count: int
    device: torch.device

    def sample_ms(self) -> float:
        """Return the time of one run in ms."""
        return timed_ms(self._run_all, {self.device}) / self.count

    def _run_all(self) -> None:
        for _ in range(self.count):
            self.run()


@dataclass(frozen=True)
class Timed:
    """A kernel in the making of its row: how it is repeated, what it took so far, and which driver it was given."""

    kernel: Kernel
    block: Block
    times_ms: list[float]
    driver: str | None = None


def time_shape(
    shape: tuple[int, int],
    count: int,
    rank: int | float,
    device: torch.device,
    *,
    budget_s: float = DEFAULT_BUDGET_S,
    repeat_s: float = math.inf,
    on_kernel: Callable[[str], None] = lambda name: None,
) -> DecompositionTimes:
    """Time every kernel at one shape, interleaved, within a budget.

    What a run would cost is predicted from a quarter of the shape, by the cube of the size. Kernels are taken from the
    cheapest up, and what is left of the budget after a first run of each decides about the next; the rest are named in
    `skipped`. Then they are repeated in rounds, each once per round, so that a disturbance of the machine falls on all
    of them: three in all, then as many as the budget and `repeat_s` leave room for, ten at most. On an NVIDIA GPU the
    singular value decomposition is tried under every driver that gives back the matrix, and the fastest is kept and
    named.

    Args:
        shape: (m, n), in either orientation.
        count: Layers of this shape.
        rank: r, or a share of min(m, n).
        device: Where to run.
        budget_s: Most seconds to spend, by that prediction.
        repeat_s: Seconds of repeats after which there is no round beyond the three.
        on_kernel: Called with each kernel's name before its first run, and with none's before each further round.

    Returns:
        A row per kernel, median and interquartile range of a run in ms. `times_online_pca` is the median over the
        closed form's; `ms_per_training_step` is count * median / period, with the shortest period of the methods that
        the kernel serves (see `kernels.use_of`). No rows where even the closed form costs too much.
    """
    m, n = sorted(shape)
    predicted_s = _predicted_s(m, n, rank, device)
    begin_s = time.perf_counter()
    problem = make_problem(m, n, rank, device)
    timed, left_out = _first_round(problem, predicted_s, begin_s + budget_s, on_kernel)
    notes = [f"left out at {m} x {n} to stay within {budget_s:g} s: {', '.join(left_out)}"]
    skipped = notes if left_out else []
    if ONLINE_PCA not in timed:
        return DecompositionTimes([], skipped)
    in_order = [timed[kernel] for kernel in KERNELS if kernel in timed]
    _more_rounds(in_order, begin_s + budget_s, repeat_s, on_kernel)
    reference_ms = _quantile(timed[ONLINE_PCA].times_ms, 0.5)
    return DecompositionTimes(
        [_row(one, problem, count, reference_ms) for one in in_order], skipped
    )


def device_label(device: torch.device) -> str:
    """Name the device as the table prints it: the GPU's name, or the CPU with its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads != 1 else ''}"


def _row(timed: Timed, problem: KernelInputs, count: int, reference_ms: float) -> Decomposition:
    kernel, device = timed.kernel, problem.G.device
    median_ms = _quantile(timed.times_ms, 0.5)
    use = use_of(kernel)
    return Decomposition(
        shape=list(problem.G.shape),
        rank=problem.B.shape[1],
        kernel=kernel.name,
        driver=library_routine(kernel, device, timed.driver),
        median_ms=median_ms,
        iqr_ms=_quantile(timed.times_ms, 0.75) - _quantile(timed.times_ms, 0.25),
        times_online_pca=median_ms / reference_ms,
        ms_per_training_step=count * median_ms / use.period,
        period=use.period,
        used_by=", ".join(use.methods),
        device=device_label(device),
    )


def _predicted_s(m: int, n: int, rank: int | float, device: torch.device) -> dict[Kernel, float]:
    """Predict every kernel's seconds at a shape from a quarter of it, where rates are lower: too much, if anything."""
    small_m, small_n = math.ceil(m / 4), math.ceil(n / 4)
    r = resolve_rank(rank, m) or m
    small = make_problem(small_m, small_n, math.ceil(r / 4), device)
    growth = (m / small_m) ** 2 * (n / small_n)
    predicted = {}
    for kernel in KERNELS:
        block = Block(functools.partial(kernel.run, small), 1, device)
        block.sample_ms()
        least_ms = min(block.sample_ms() for _ in range(_PREDICTIONS))
        predicted[kernel] = least_ms / 1e3 * growth
    return predicted


def _first_round(
    problem: KernelInputs,
    predicted_s: dict[Kernel, float],
    end_s: float,
    on_kernel: Callable[[str], None],
) -> tuple[dict[Kernel, Timed], list[str]]:
    """Run kernels once, from the cheapest up, while there is time for them; return those, and notes on the others."""
    timed: dict[Kernel, Timed] = {}
    left_out: list[str] = []
    reserved_s = 0.0  # for the rounds to come
    for kernel in sorted(KERNELS, key=predicted_s.__getitem__):
        left_s = end_s - time.perf_counter() - reserved_s
        if _LEAST_RUNS * predicted_s[kernel] > left_s:
            left_out.append(f"{kernel.name} ({predicted_s[kernel]:.1f} s a run)")
            continue
        on_kernel(kernel.name)
        timed[kernel] = fastest(kernel, problem)
        block, (first_ms, *_) = timed[kernel].block, timed[kernel].times_ms
        reserved_s += (LEAST_REPEATS - 1) * block.count * first_ms / 1e3
    return timed, left_out


def fastest(kernel: Kernel, problem: KernelInputs) -> Timed:
    """Time a kernel for the first time, under every driver there is to choose, and return the fastest."""
    choices: list[str | None] = [*accepted_drivers(kernel, problem)] or [None]
    tried = []
    for driver in choices:
        inputs = (problem,) if driver is None else (problem, driver)
        block, first_ms = warmed_up(functools.partial(kernel.run, *inputs), problem.G.device)
        tried.append(Timed(kernel, block, [first_ms], driver))
    return min(tried, key=lambda one: one.times_ms[0])


def _more_rounds(
    timed: list[Timed], end_s: float, repeat_s: float, on_kernel: Callable[[str], None]
) -> None:
    """Repeat the kernels, interleaved."""
    begin_s = time.perf_counter()
    for done in range(1, MOST_REPEATS):
        now_s = time.perf_counter()
        spent_s = now_s - begin_s
        is_over = now_s + spent_s / max(1, done - 1) > end_s or spent_s > repeat_s
        if done >= LEAST_REPEATS and is_over:
            break
        on_kernel("")
        for one in timed:
            one.times_ms.append(one.block.sample_ms())


def warmed_up(run: Callable[[], object], device: torch.device) -> tuple[Block, float]:
    """Run something until it is warm and its block is long enough for the clock; return that and a first time in ms."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=_LEAST_RUN_S)
    count = max(measured.number_per_run, math.ceil(_LEAST_RUN_S / max(measured.median, 1e-9)))
    return Block(run, count, device), measured.median * 1e3


def _quantile(values: list[float], share: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))
