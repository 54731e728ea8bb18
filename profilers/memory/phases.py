"""From what was followed of a model and of a method to the peak of training and its memory table.

State is alive in every phase, so

    forward = forward without state + state,   backward likewise,
    step    = weights + gradients + state + the step's temporaries,   refresh likewise on a refresh step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import get_args

from ..record.base import Category
from ..record.profile import Memory, Peak, Phase, PhasePeaks
from .device_overhead import CPU, DeviceConstants

# The interval around a followed peak. Torch's own tests of this technique accept 10 % either way against CUDA's
# counter; too little memory stops a run and too much only looks worse, so the interval leans upwards.
LOW_FACTOR = 0.95
HIGH_FACTOR = 1.10


@dataclass(frozen=True)
class ModelPeaks:
    """What the model itself takes, without any optimizer.

    Attributes:
        parameter_bytes: Parameters and buffers.
        gradient_bytes: The gradients at the end of the backward pass.
        activation_bytes: What the forward pass leaves behind for the backward pass, the batch included.
        forward: Bytes by category at the highest instant of the forward pass.
        backward: The same of the backward pass.
    """

    parameter_bytes: int
    gradient_bytes: int
    activation_bytes: int
    forward: Counter[str]
    backward: Counter[str]


@dataclass(frozen=True)
class StepPeaks:
    """What training with one method takes.

    Attributes:
        state_bytes: Optimizer state after a step.
        step: Bytes by category at the highest instant of an ordinary step.
        refresh: The same of a step that refreshes the bases; None for a method that has none.
        passes: The same of the forward and the backward pass, the state included, where the method changes the model or
            the passes; None where they are the model's own.
    """

    state_bytes: int
    step: Counter[str]
    refresh: Counter[str] | None
    passes: tuple[Counter[str], Counter[str]] | None = None


def training_phases(model: ModelPeaks, step: StepPeaks) -> dict[Phase, Counter[str]]:
    """Return the bytes by category at the highest instant of each phase, once the optimizer's state exists."""
    state = Counter({"state": step.state_bytes})
    forward, backward = step.passes or (model.forward + state, model.backward + state)
    phases: dict[Phase, Counter[str]] = {
        "forward": forward,
        "backward": backward,
        "step": step.step,
    }
    if step.refresh is not None:
        phases["refresh"] = step.refresh
    return phases


def highest_instant(model: ModelPeaks, step: StepPeaks) -> Counter[str]:
    """Return the bytes by category at the highest instant of training."""
    return max(training_phases(model, step).values(), key=Counter.total)


def simulated_peak(
    model: ModelPeaks,
    step: StepPeaks,
    transient_bytes: int,
    device: DeviceConstants = CPU,
) -> Peak:
    """Return the peak over the phases with its interval.

        low = 0.95 x peak,      high = max over phases (1.10 x phase + hidden) + workspace + segment

    `hidden`: on a refresh `transient_bytes`, the largest temporary of one parameter, once more, for what the
    decomposition routines hold out of sight. Workspace and segment are what libraries and allocator take on the device,
    nothing on a CPU. The device's context and the allocator's reserve are in neither: a budget is made smaller by them
    (`plan.budget`).
    """
    phases = training_phases(model, step)
    totals = {name: at.total() for name, at in phases.items()}
    phase = max(totals, key=lambda name: totals[name])
    hidden = {name: transient_bytes if name == "refresh" else 0 for name in totals}
    highest = max(int(HIGH_FACTOR * total) + hidden[name] for name, total in totals.items())
    return Peak(
        bytes=totals[phase],
        low_bytes=int(LOW_FACTOR * totals[phase]),
        high_bytes=highest + device.non_tensor_bytes,
        phase=phase,
        by_phase=PhasePeaks(**totals),
        categories={name: by_category(at) for name, at in phases.items()},
        source="simulated",
    )


def by_category(at: Counter[str]) -> dict[Category, int]:
    """Return the bytes of every category, those of categories that the file does not know as temporaries."""
    known = {name: at[name] for name in get_args(Category)}
    known["temporary"] += at.total() - sum(known.values())
    return {name: size for name, size in known.items() if size}


def simulated_memory(model: ModelPeaks, step: StepPeaks) -> Memory:
    """Return the memory table of training with the method whose step is given.

    Temporaries are what is alive at the highest instant beyond weights, gradients, state and kept activations; not
    all of those need be alive at that instant, so the categories sum to the peak or more. `at_peak` sums to it.
    """
    top = highest_instant(model, step)
    kept = min(top["activation"], model.activation_bytes)
    return Memory(
        parameter_bytes=model.parameter_bytes,
        gradient_bytes=model.gradient_bytes,
        activation_bytes=model.activation_bytes,
        temporary_bytes=top.total() - top["parameter"] - top["gradient"] - top["state"] - kept,
        optimizer_state_bytes=step.state_bytes,
        peak_bytes=top.total(),
        at_peak=by_category(top),
        source="simulated",
    )
