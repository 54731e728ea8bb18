"""Memory of training with every method: measured on a GPU, else followed under fake tensors, else by formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..costs.architectures import WeightShape
from ..record.profile import Content, Memory, MethodCost, Peak, PhasePeaks
from ..target.session import Session
from .breakdown import contents
from .cuda_child import (
    MeasuredPeaks,
    MeasurementError,
    PeakRequest,
    measure_in_child,
    measured_memory,
    measured_peak,
)
from .device_overhead import CPU, UNKNOWN_GPU, DeviceConstants, gpu_constants
from .phases import (
    HIGH_FACTOR,
    LOW_FACTOR,
    StepPeaks,
    by_category,
    highest_instant,
    simulated_memory,
    simulated_peak,
)
from .savings import savings
from .simulation import GroupsOf, SimulatedModel, SimulationError


@dataclass(frozen=True)
class Footprint:
    """Memory of training with one method; `step` is its part as it was followed, None where it was measured."""

    method: str
    memory: Memory
    peak: Peak
    step: StepPeaks | None = None


def simulated_footprints(
    simulated: SimulatedModel,
    groups_of: GroupsOf,
    costs: Sequence[MethodCost],
    notes: list[str],
    device: DeviceConstants = CPU,
) -> Iterator[Footprint]:
    """Follow a step of every method under fake tensors, yielding each as it is done.

    `notes` gets a line for every method that could not be followed.
    """
    for cost in costs:
        try:
            step = simulated.step_peaks(cost.method, cost.options, groups_of)
        except SimulationError as error:
            notes.append(f"peak of {cost.method}: without data it fails with {error}")
            continue
        yield Footprint(
            cost.method,
            simulated_memory(simulated.peaks, step),
            simulated_peak(simulated.peaks, step, cost.transient_bytes, device),
            step,
        )


def measured_footprints(
    session: Session, costs: Sequence[MethodCost], notes: list[str]
) -> Iterator[Footprint]:
    """Measure a training step of every method on the GPU, in a child process.

    `notes` gets a line for everything that could not be measured.
    """
    request = PeakRequest(
        target=session.target.load_arguments(),
        settings=session.settings.model_dump(),
        methods=[(cost.method, cost.options) for cost in costs],
    )
    try:
        rows = measure_in_child(request)
    except MeasurementError as error:
        notes.append(f"memory was not measured on {session.device}: {error}")
        return
    for method, row in rows.items():
        if isinstance(row, MeasuredPeaks):
            yield Footprint(method, measured_memory(row), measured_peak(row))
        else:
            notes.append(f"memory of {method} was not measured on {session.device}: {row}")


def explained(memory: Memory, simulated: SimulatedModel, step: StepPeaks) -> Memory:
    """Return a memory table with what is alive at the highest instant, and what would free some of it.

    Both are from the simulation. Where the peak was measured, what it holds beyond the followed tensors is an entry of
    its own; where it holds less, kernels of the device keep less than the followed ones, and nothing is listed.
    """
    changes = savings(simulated.timeline, simulated.peaks, step)
    found = contents(simulated.timeline, simulated.peaks, step)
    parts = Counter(by_category(highest_instant(simulated.peaks, step)))
    beyond = (memory.peak_bytes or 0) - parts.total()
    if beyond < 0:
        return memory.model_copy(update={"savings": changes})
    if beyond > 0:
        name = "not followed (library workspaces, rounding)"
        found = [*found, Content(name=name, category="temporary", bytes=beyond)]
        parts["temporary"] += beyond
    return memory.model_copy(update={"contents": found, "at_peak": dict(parts), "savings": changes})


def constants_of(session: Session) -> DeviceConstants:
    """Return what the device takes beside tensors, where training is to run.

    A simulation is for a machine that is not here: the figures of a GPU of unknown name, the largest known ones.
    """
    if session.settings.simulate:
        return UNKNOWN_GPU
    if session.device.type == "cuda":
        return gpu_constants(torch.cuda.get_device_name(session.device))
    return CPU


def memory_by_formula(weights: Sequence[WeightShape], optimizer_state_bytes: int) -> Memory:
    """Return what shapes alone say: weights, gradients and state. Activations and the peak stay unknown."""
    sizes = {"matrix": 0, "fallback": 0, "frozen": 0}
    for weight in weights:
        sizes[weight.role] += weight.elements * weight.dtype.itemsize
    return Memory(
        parameter_bytes=sum(sizes.values()),
        gradient_bytes=sizes["matrix"] + sizes["fallback"],
        optimizer_state_bytes=optimizer_state_bytes,
        source="formula",
    )


def peak_by_formula(memory: Memory, cost: MethodCost, device: DeviceConstants = CPU) -> Peak:
    """Return the peak of the optimizer's step alone, from shapes: weights, gradients, state, largest temporary.

    Activations are not alive then, so it is right for the step and a lower bound for the whole of training.
    """
    # Gradients have the form of the weights they are of.
    held = memory.parameter_bytes + memory.gradient_bytes - 2 * cost.weight_bytes_saved
    total = max(held, 0) + cost.state_bytes + cost.transient_bytes
    return Peak(
        bytes=total,
        low_bytes=int(LOW_FACTOR * total),
        high_bytes=int(HIGH_FACTOR * total) + device.non_tensor_bytes,
        phase="step",
        by_phase=PhasePeaks(step=total),
        source="formula",
    )
