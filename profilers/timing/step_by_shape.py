"""Optimizer steps timed on one parameter of each shape class: what all parameters take follows by counting them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..shape_classes import only_gradient_of, shape_classes
from . import clock
from .interleaved import ordinary_and_refresh_ms

_FEWEST = 2


@dataclass
class ShapeClass:
    """Parameters of one shape class, and the times of the one that stands for them.

    Attributes:
        parameters: All of them; the first one stands for the others.
        own_ms: Time of each step of the method that updates the first one alone.
        other_ms: The same of the baseline, interleaved with those.
    """

    parameters: list[Tensor]
    own_ms: list[float] = field(default_factory=list)
    other_ms: list[float] = field(default_factory=list)

    @property
    def parameter(self) -> Tensor:
        """Return the one that is timed."""
        return self.parameters[0]

    @property
    def count(self) -> int:
        """Return how many there are."""
        return len(self.parameters)

    def all_ms(self) -> list[list[float]]:
        """Return both lists once for every parameter, the baseline's only where there is one."""
        return [times for times in (self.own_ms, self.other_ms) if times] * self.count


class ShapeClassSteps:
    """Steps of a method and of a baseline that update a single parameter, interleaved, for every shape class.

    Args:
        optimizers: The method's and, where that is another one, the baseline's.
        is_refresh: Whether step t = 1, 2, ... of the method refreshes.
        devices: GPUs to wait for.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        is_refresh: Callable[[int], bool],
        devices: set[torch.device],
    ) -> None:
        self._optimizers, self._is_refresh, self._devices = optimizers, is_refresh, devices
        self.classes = [ShapeClass(alike) for alike in shape_classes(optimizers[0])]
        self._taken_s: list[float] = []

    def take(self, most: int, end_s: float) -> None:
        """Take steps until there are `most`; none, after the first two, that would end after `end_s`.

        A step with a refresh is expected to take as long as the first one, which has one too.
        """
        for t in range(len(self._taken_s) + 1, most + 1):
            begin_s = time.perf_counter()
            if t > _FEWEST and begin_s + self._expected_s(t) > end_s:
                break
            for alike in self.classes:
                lists = (alike.own_ms, alike.other_ms)
                with only_gradient_of(alike.parameter, self._optimizers[0]):
                    for times_ms, optimizer in zip(lists, self._optimizers, strict=False):
                        times_ms.append(clock.timed_ms(optimizer.step, self._devices))
            self._taken_s.append(time.perf_counter() - begin_s)

    def _expected_s(self, t: int) -> float:
        return self._taken_s[0 if self._is_refresh(t) else 1]

    def whole_s(self, steps: Sequence[int]) -> float:
        """Return the seconds that these steps t of both optimizers would take for all parameters."""
        taken = len(self._taken_s)
        like = [t if t <= taken else (1 if self._is_refresh(t) else 2) for t in steps]
        each_ms = [times for alike in self.classes for times in alike.all_ms()]
        return sum(times[t - 1] for times in each_ms for t in like) / 1e3

    def ordinary_steps(self, most: int, end_s: float) -> list[list[float]]:
        """Return times in ms of ordinary steps of all parameters: the method's, and those of another baseline.

        There are `most` of them; after the first two none is begun after `end_s`. None is a first one, in which every
        layer's basis is fitted.

        The state of the parameter that stands for a class is copied to the others for that; a basis of another layer's
        gradient takes as long to use. Small layers that are updated alone stay in the processor's cache: a step of
        AdamW on all of them takes two to three times what they add up to.
        """
        for optimizer in self._optimizers:
            for alike in self.classes:
                for parameter in alike.parameters[1:]:
                    state = optimizer.state[alike.parameter]
                    optimizer.state[parameter] = {key: v.clone() for key, v in state.items()}
        times_ms: list[list[float]] = [[] for _ in self._optimizers]
        for done in range(most):
            if done >= _FEWEST and time.perf_counter() > end_s:
                break
            for times, optimizer in zip(times_ms, self._optimizers, strict=True):
                for state in optimizer.state.values():
                    state["step"].fill_(1)  # the next is the second, which is an ordinary one
                times.append(clock.timed_ms(optimizer.step, self._devices))
        return times_ms

    def forget(self) -> None:
        """Let go of the state, as if no step had been taken."""
        for optimizer in self._optimizers:
            optimizer.state.clear()

    def refreshes(self, alike: ShapeClass) -> bool:
        """Return whether the method refreshes something of these parameters from time to time."""
        return self._is_refresh(1) and "refreshes" in self._optimizers[0].state[alike.parameter]

    def excesses_ms(self) -> list[float]:
        """Return by how much a refresh of one parameter outlasts an ordinary step of it, for all that have one."""
        found: list[float] = []
        for alike in self.classes:
            if self.refreshes(alike):
                ordinary_ms, refresh_ms = ordinary_and_refresh_ms(alike.own_ms, self._is_refresh)
                found += [max(0.0, refresh_ms - ordinary_ms)] * alike.count
        return found

    def added_up_ms(self) -> tuple[float, float]:
        """Return an ordinary step of all parameters, and one of the baseline's."""
        ordinary_ms = baseline_ms = 0.0
        for alike in self.classes:
            is_refresh = self._is_refresh if self.refreshes(alike) else lambda t: False
            ordinary_ms += alike.count * ordinary_and_refresh_ms(alike.own_ms, is_refresh)[0]
            others_ms = alike.other_ms or alike.own_ms
            baseline_ms += alike.count * ordinary_and_refresh_ms(others_ms, lambda t: False)[0]
        return ordinary_ms, baseline_ms
