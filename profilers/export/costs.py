"""The exported tables about costs, and about the profile itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..record.profile import MethodCost, Peak, Profile
from .table import FLAG, INTEGER, REAL, TEXT, ExportTable

_Row = tuple[Any, ...]
_PHASES = ("forward", "backward", "step", "refresh")


def _run(profile: Profile) -> Iterator[_Row]:
    target, environment, settings = profile.target, profile.environment, profile.settings
    gpu = environment.gpu
    yield (
        target.spec, json.dumps(target.kwargs), target.picked, target.sha256, target.synthetic_data,
        environment.subopt, environment.torch, environment.python, environment.platform, environment.device,
        environment.threads, gpu.name if gpu else None, gpu.total_bytes if gpu else None,
        settings.batch_size, settings.batches, settings.tokens_per_batch, settings.steps, settings.warmup_steps,
        float(settings.rank), isinstance(settings.rank, float), settings.dtype, settings.detail, settings.simulate,
        settings.seed, profile.forward_backward_ms, profile.batch_ms, profile.clip_ms, profile.passes,
        profile.interrupted,
    )  # fmt: skip


def _methods(profile: Profile) -> Iterator[_Row]:
    for cost in profile.methods:
        yield (
            cost.method, json.dumps(cost.options), cost.state_bytes, cost.transient_bytes, cost.weight_bytes_saved,
            *_peak(cost.peak), cost.step_flops, cost.bound_flops, cost.relative_flops, cost.bound_relative,
            *_times(cost),
        )  # fmt: skip


def _peak(peak: Peak | None) -> _Row:
    if peak is None:
        return (None,) * 5
    return peak.bytes, peak.low_bytes, peak.high_bytes, peak.phase, peak.source


def _times(cost: MethodCost) -> _Row:
    times = (cost.step_ms, cost.overhead_ms, cost.ordinary_ms, cost.refresh_ms, cost.staggered_ms)
    return *times, cost.step_ms_source


def _phases(profile: Profile) -> Iterator[_Row]:
    for cost in profile.methods:
        for phase in _PHASES:
            size = getattr(cost.peak.by_phase, phase) if cost.peak else None
            if size is not None:
                yield cost.method, phase, size


def _categories(profile: Profile) -> Iterator[_Row]:
    for cost in profile.methods:
        for phase, sizes in (cost.peak.categories if cost.peak else {}).items():
            for category, size in sizes.items():
                yield cost.method, phase, category, size


def _memory(profile: Profile) -> Iterator[_Row]:
    memory = profile.memory
    sizes = (
        memory.parameter_bytes, memory.gradient_bytes, memory.activation_bytes, memory.temporary_bytes,
        memory.optimizer_state_bytes, memory.peak_bytes,
    )  # fmt: skip
    yield *sizes, memory.source


def _contents(profile: Profile) -> Iterator[_Row]:
    yield from ((item.name, item.category, item.bytes) for item in profile.memory.contents)


def _savings(profile: Profile) -> Iterator[_Row]:
    yield from ((item.change, item.bytes) for item in profile.memory.savings)


def _decompositions(profile: Profile) -> Iterator[_Row]:
    for item in profile.decompositions:
        yield (
            "x".join(map(str, item.shape)), item.rank, item.kernel, item.driver, item.period, item.used_by,
            item.median_ms, item.iqr_ms, item.times_online_pca, item.ms_per_training_step, item.device,
        )  # fmt: skip


def _spent(profile: Profile) -> Iterator[_Row]:
    yield from ((item.on, item.seconds) for item in profile.spent)


def _missing(profile: Profile) -> Iterator[_Row]:
    yield from ((text,) for text in profile.missing)


COST_TABLES = (
    ExportTable(
        "methods",
        "an optimizer method: state, peak, arithmetic and time",
        {
            "method": TEXT, "options_json": TEXT, "state_bytes": INTEGER, "transient_bytes": INTEGER,
            "weight_bytes_saved": INTEGER, "peak_bytes": INTEGER, "peak_low_bytes": INTEGER,
            "peak_high_bytes": INTEGER, "peak_phase": TEXT, "peak_source": TEXT, "step_flops": REAL,
            "bound_flops": REAL, "relative_flops": REAL, "bound_relative": REAL, "step_ms": REAL, "overhead_ms": REAL,
            "ordinary_ms": REAL, "refresh_ms": REAL, "staggered_ms": REAL, "step_ms_source": TEXT,
        },
        _methods,
    ),
    ExportTable(
        "phases",
        "the highest memory of a method in one phase of a step",
        {"method": TEXT, "phase": TEXT, "peak_bytes": INTEGER},
        _phases,
    ),
    ExportTable(
        "phase_categories",
        "what that memory is",
        {"method": TEXT, "phase": TEXT, "category": TEXT, "bytes": INTEGER},
        _categories,
    ),
    ExportTable(
        "memory",
        "plain AdamW's memory, in one row",
        {
            "parameter_bytes": INTEGER, "gradient_bytes": INTEGER, "activation_bytes": INTEGER,
            "temporary_bytes": INTEGER, "optimizer_state_bytes": INTEGER, "peak_bytes": INTEGER, "source": TEXT,
        },
        _memory,
    ),
    ExportTable(
        "memory_contents",
        "something large that is alive at that peak",
        {"name": TEXT, "category": TEXT, "bytes": INTEGER},
        _contents,
    ),
    ExportTable(
        "memory_savings",
        "a change that frees memory at that peak, beside the optimizer",
        {"change": TEXT, "freed_bytes": INTEGER},
        _savings,
    ),
    ExportTable(
        "decompositions",
        "a way to find or follow a basis, timed at one shape",
        {
            "shape": TEXT, "rank": INTEGER, "kernel": TEXT, "driver": TEXT, "period_steps": INTEGER, "used_by": TEXT,
            "median_ms": REAL, "iqr_ms": REAL, "times_online_pca": REAL, "ms_per_training_step": REAL, "device": TEXT,
        },
        _decompositions,
    ),
    ExportTable("spent", "the profile's own time, by quantity", {"on": TEXT, "seconds": REAL}, _spent),
    ExportTable("missing", "what is missing, and why", {"what": TEXT}, _missing),
    ExportTable(
        "run",
        "what was profiled, where and how, in one row",
        {
            "target": TEXT, "kwargs_json": TEXT, "picked": TEXT, "sha256": TEXT, "synthetic_data": FLAG,
            "subopt": TEXT, "torch": TEXT, "python": TEXT, "platform": TEXT, "device": TEXT, "threads": INTEGER,
            "gpu": TEXT, "gpu_bytes": INTEGER, "batch_size": INTEGER, "batches": INTEGER, "tokens_per_batch": INTEGER,
            "steps": INTEGER, "warmup_steps": INTEGER, "rank": REAL, "rank_is_share": FLAG, "dtype": TEXT,
            "detail": TEXT, "simulate": FLAG, "seed": INTEGER, "forward_backward_ms": REAL, "batch_ms": REAL,
            "clip_ms": REAL, "passes": INTEGER, "interrupted": FLAG,
        },
        _run,
    ),
)  # fmt: skip
