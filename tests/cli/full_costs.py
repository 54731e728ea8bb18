"""The costs in the made-up profile: memory of every method, and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from subopt.optimizers import Method
from subopt.profilers.costs.architectures import WeightShape
from subopt.profilers.costs.formula import state_bytes, weight_bytes_saved
from subopt.profilers.record.profile import (
    BatchPoint,
    Category,
    Content,
    Decomposition,
    Memory,
    MethodCost,
    Peak,
    Phase,
    PhasePeaks,
    Saving,
)

HIDDEN, VOCABULARY = 512, 32_000
TOKENS = 2048
BASELINE_MS = 3.1  # of a step with AdamW


def method_cost(method: Method, weights: list[WeightShape]) -> MethodCost:
    """The row of a method: its bytes of state are real ones, the rest is made up."""
    options = method.among({"rank": 0.25})
    refreshes = "refreshes" in method.capabilities
    held = _total(weights, lambda one: state_bytes([one], method, options))
    ordinary = 2.0 + held / 2**28
    refresh = 80 * ordinary if refreshes else ordinary
    return MethodCost(
        method=method.name,
        options=options | {"betas": [0.9, 0.999]},
        state_bytes=held,
        transient_bytes=(3 if refreshes else 1) * 2**27,
        weight_bytes_saved=_total(weights, lambda one: weight_bytes_saved([one], method, options)),
        peak=_peak(held, weights, (3 if refreshes else 1) * 2**27),
        step_flops=50.0 * held,
        bound_flops=20.0 * held if refreshes else 0.0,
        relative_flops=held / 2**34,
        bound_relative=held / 2**36 if refreshes else 0.0,
        step_ms=ordinary + refresh / 200,
        overhead_ms=ordinary + refresh / 200 - BASELINE_MS,
        ordinary_ms=ordinary,
        refresh_ms=refresh,
        staggered_ms=ordinary + (refresh - ordinary) / 8,
        step_ms_source="measured",
    )


def _total(weights: list[WeightShape], count: Callable[[WeightShape], int]) -> int:
    """The sum of what is counted for each weight, counted once for those that are alike."""
    alike = Counter(weight._replace(name="") for weight in weights)
    return sum(number * count(weight) for weight, number in alike.items())


def _peak(state: int, weights: list[WeightShape], transient: int) -> Peak:
    parameters, activations = _bytes(weights), 6 * 2**30
    always: dict[Category, int] = {"parameter": parameters, "state": state}
    updating = always | {"gradient": parameters, "activation": 0}
    categories: dict[Phase, dict[Category, int]] = {
        "forward": always | {"gradient": 0, "activation": activations, "temporary": 2**28},
        "backward": always
        | {"gradient": parameters // 2, "activation": activations, "temporary": 2**29},
        "step": updating | {"temporary": transient // 2},
        "refresh": updating | {"temporary": transient},
    }
    by_phase = {phase: sum(held.values()) for phase, held in categories.items()}
    phase = max(by_phase, key=by_phase.__getitem__)
    return Peak(
        bytes=by_phase[phase],
        low_bytes=by_phase[phase],
        high_bytes=int(1.15 * by_phase[phase]) + 2**30,
        phase=phase,
        by_phase=PhasePeaks(**by_phase),
        categories=categories,
        source="simulated",
    )


def _bytes(weights: list[WeightShape]) -> int:
    return sum(4 * weight.elements for weight in weights)


def memory(adamw: MethodCost, weights: list[WeightShape]) -> Memory:
    top = adamw.peak.categories[adamw.peak.phase]
    logits = TOKENS * VOCABULARY * 4
    return Memory(
        parameter_bytes=top["parameter"],
        gradient_bytes=_bytes(weights),
        activation_bytes=top["activation"],
        temporary_bytes=top["temporary"],
        optimizer_state_bytes=adamw.state_bytes,
        peak_bytes=adamw.peak.bytes,
        at_peak=adamw.peak.categories[adamw.peak.phase],
        source="simulated",
        contents=[
            Content(name="logits of the loss", category="activation", bytes=3 * logits),
            Content(name="inputs of the feed-forward layers", category="activation", bytes=2**30),
            Content(name="attention scores", category="temporary", bytes=2**29),
            Content(name="moments of model.embed_tokens.weight", category="state", bytes=8 * VOCABULARY * HIDDEN),
        ],
        savings=[
            Saving(change="compute the loss in chunks", bytes=2 * logits),
            Saving(change="halve the batch and accumulate", bytes=3 * 2**30),
        ],
        by_batch=[
            BatchPoint(
                batch_size=size, recomputed=recomputed, forward_bytes=size * unit, backward_bytes=2 * size * unit,
                without_gradients_bytes=size * unit, update_bytes=size * unit, retained_bytes=size * 2**12,
            )
            for recomputed, unit in ((False, 2**27), (True, 2**25))
            for size in (1, 8, 64)
        ],
    )  # fmt: skip


def timings(shape: tuple[int, int]) -> list[Decomposition]:
    kernels = [
        ("svd, thin", "gesdd", 300.0, 200), ("svd, full", "gesdd", 900.0, 200),
        ("eigh of the Gram matrix", "syevd", 45.0, 200), ("QR power step", "geqrf", 18.0, 10),
        ("randomized svd", "gesdd", 24.0, 200), ("online PCA, autograd", "gemm", 3.4, 1),
        ("online PCA, closed form", "gemm", 1.1, 1),
    ]  # fmt: skip
    scale = shape[1] / HIDDEN
    return [
        Decomposition(
            shape=list(shape),
            rank=shape[0] // 4,
            kernel=kernel,
            driver=driver,
            period=period,
            used_by={200: "galore, adadiag", 10: "soap", 1: "osd"}[period],
            median_ms=median * scale,
            iqr_ms=0.05 * median * scale,
            times_online_pca=median / 1.1,
            ms_per_training_step=4 * median * scale / period,
            device="cpu, 1 thread",
        )
        for kernel, driver, median, period in kernels
    ]
