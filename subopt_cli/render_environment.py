"""The environment block of a bug report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from .render_text import facts, plural
from .units import format_bytes

if TYPE_CHECKING:
    from subopt.profilers.schema import Environment, Gpu

CROWDED_SHARE = 0.1  # of a GPU's memory: what others use beyond this changes peaks and times


def environment_facts(environment: Environment, gpu: Gpu | None) -> RenderableType:
    """Return versions, platform, the device in use, and the GPU that the driver reports."""
    pairs = [
        ("subopt", environment.subopt),
        ("torch", environment.torch),
        ("python", environment.python),
        ("platform", environment.platform),
        ("device", f"{environment.device}, {plural(environment.threads, 'thread')}"),
    ]
    if gpu is None:
        pairs.append(("gpu", "none that an NVIDIA driver knows of"))
    else:
        memory = f"{format_bytes(gpu.free_bytes)} of {format_bytes(gpu.total_bytes)} free"
        others = plural(gpu.other_processes, "other process", "other processes")
        pairs.append(("gpu", f"{gpu.name}, {memory}, driver {gpu.driver}, {others}"))
    return facts(pairs)


def concerns(environment: Environment, gpu: Gpu | None) -> list[str]:
    """Return what would make numbers taken here wrong or unsteady."""
    if gpu is None:
        return []
    found = []
    if environment.device == "cpu":
        found.append(f"there is a {gpu.name}, but torch {environment.torch} works on the CPU here")
    if gpu.used_bytes > CROWDED_SHARE * gpu.total_bytes:
        used = format_bytes(gpu.used_bytes)
        found.append(f"{used} of the GPU's memory is in use: peaks and times taken now would vary")
    return found
