"""One training step with a meter beside it: the highest memory of every phase, however often the loss is evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..record.profile import Phase

# A refresh, an ordinary step, a refresh with everything in place.
WATCHED_STEPS = 3
# Ranks double with each step at most: enough for any.
_MOST_STEPS = 32


class Meter(Protocol):
    """Bytes alive now, and the most since a phase began."""

    def live_bytes(self) -> int:
        """Return what is alive now."""

    def peak_bytes(self) -> Counter[str]:
        """Return the most that was alive since the phase began, by category where those are known."""

    def begin(self, phase: Phase) -> None:
        """Begin a phase: the peak is what is alive now."""


@dataclass(frozen=True)
class WatchedStep:
    """What one step took.

    Attributes:
        peaks: Highest bytes of each phase, by category where the meter knows those; of the evaluations of the loss the
            highest one counts.
        gradient_bytes: The gradients at the end of the first backward pass.
        activation_bytes: What the first forward pass left behind for the backward pass.
    """

    peaks: dict[Phase, Counter[str]]
    gradient_bytes: int
    activation_bytes: int


def watched_steps(model: nn.Module, take: Callable[[], WatchedStep]) -> list[WatchedStep]:
    """Take `WATCHED_STEPS` steps, or more until replaced layers have stopped growing."""
    rows: list[WatchedStep] = []
    has_grown = True
    while len(rows) < WATCHED_STEPS or (has_grown and len(rows) < _MOST_STEPS):
        before = sum(parameter.numel() for parameter in model.parameters())
        rows.append(take())
        has_grown = sum(parameter.numel() for parameter in model.parameters()) > before
    return rows


def watched_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[], Tensor],
    meter: Meter,
    *,
    needs_closure: bool,
) -> WatchedStep:
    """Take one training step under a meter; with `needs_closure` the optimizer evaluates the loss itself."""
    peaks: dict[Phase, Counter[str]] = {}
    first: list[tuple[int, int]] = []

    def end(phase: Phase) -> None:
        highest = (peaks.get(phase, Counter()), meter.peak_bytes())
        peaks[phase] = max(highest, key=Counter.total)

    def evaluate() -> Tensor:
        model.zero_grad(set_to_none=True)
        before = meter.live_bytes()
        meter.begin("forward")
        loss = loss_of()
        end("forward")
        activation_bytes = meter.live_bytes() - before
        meter.begin("backward")
        loss.backward()
        end("backward")
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        size = sum(gradient.numel() * gradient.element_size() for gradient in gradients)
        first.append((size, activation_bytes))
        meter.begin("step")
        return loss.detach()

    def closure() -> Tensor:
        end("step")  # what the optimizer did until now
        return evaluate()

    if needs_closure:
        meter.begin("step")
        optimizer.step(closure)  # type: ignore[arg-type]  # torch says float and gives tensors itself
    else:
        evaluate()
        meter.begin("step")  # the loss is gone
        optimizer.step()
    end("step")
    gradient_bytes, activation_bytes = first[0]
    return WatchedStep(peaks, gradient_bytes, activation_bytes)
