"""The exported tables about costs, and about the profile itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..record.profile import Profile
from .table import FLAG, INTEGER, REAL, TEXT, ExportTable, fields_of

_Row = tuple[Any, ...]
_MEMORY = {
    "parameter_bytes": INTEGER, "gradient_bytes": INTEGER, "activation_bytes": INTEGER, "temporary_bytes": INTEGER,
    "optimizer_state_bytes": INTEGER, "peak_bytes": INTEGER, "source": TEXT,
}  # fmt: skip


def _run(profile: Profile) -> Iterator[_Row]:
    settings = profile.settings
    yield (
        profile.target.spec, json.dumps(profile.target.kwargs),
        *fields_of(profile.target, "picked", "sha256", "synthetic_data"),
        *fields_of(profile.environment, "subopt", "torch", "python", "platform", "device", "threads"),
        *fields_of(profile.environment.gpu, "name", "total_bytes"),
        *fields_of(settings, "batch_size", "batches", "tokens_per_batch", "steps", "warmup_steps"),
        float(settings.rank), isinstance(settings.rank, float),
        *fields_of(settings, "dtype", "detail", "simulate", "seed"),
        *fields_of(profile, "forward_backward_ms", "batch_ms", "clip_ms", "passes", "interrupted"),
    )  # fmt: skip


def _methods(profile: Profile) -> Iterator[_Row]:
    for cost in profile.methods:
        yield (
            cost.method, json.dumps(cost.options),
            *fields_of(cost, "state_bytes", "transient_bytes", "weight_bytes_saved"),
            *fields_of(cost.peak, "bytes", "low_bytes", "high_bytes", "phase", "source"),
            *fields_of(cost, "step_flops", "bound_flops", "relative_flops", "bound_relative"),
            *fields_of(cost, "step_ms", "overhead_ms", "ordinary_ms", "refresh_ms", "staggered_ms", "step_ms_source"),
        )  # fmt: skip


def _phases(profile: Profile) -> Iterator[_Row]:
    for cost in profile.methods:
        for phase, size in cost.peak.by_phase if cost.peak else ():
            if size is not None:
                yield cost.method, phase, size


def _categories(profile: Profile) -> Iterator[_Row]:
    for cost in profile.methods:
        for phase, sizes in (cost.peak.categories if cost.peak else {}).items():
            for category, size in sizes.items():
                yield cost.method, phase, category, size


def _decompositions(profile: Profile) -> Iterator[_Row]:
    for item in profile.decompositions:
        yield (
            "x".join(map(str, item.shape)), *fields_of(item, "rank", "kernel", "driver", "period", "used_by"),
            *fields_of(item, "median_ms", "iqr_ms", "times_online_pca", "ms_per_training_step", "device"),
        )  # fmt: skip


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
        _MEMORY,
        lambda profile: [fields_of(profile.memory, *_MEMORY)],
    ),
    ExportTable(
        "memory_contents",
        "something large that is alive at that peak",
        {"name": TEXT, "category": TEXT, "bytes": INTEGER},
        lambda profile: (fields_of(item, "name", "category", "bytes") for item in profile.memory.contents),
    ),
    ExportTable(
        "memory_savings",
        "a change that frees memory at that peak, other than the optimizer",
        {"change": TEXT, "freed_bytes": INTEGER},
        lambda profile: (fields_of(item, "change", "bytes") for item in profile.memory.savings),
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
    ExportTable(
        "spent",
        "the profile's own time, by quantity",
        {"on": TEXT, "seconds": REAL},
        lambda profile: (fields_of(item, "on", "seconds") for item in profile.spent),
    ),
    ExportTable(
        "missing", "what is missing, and why", {"what": TEXT}, lambda profile: ((text,) for text in profile.missing)
    ),
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
