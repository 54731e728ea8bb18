"""Preconditioned steps: a preconditioner's direction, grafted to another method's length, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..flops import Flops
from ..options import Options
from ..state.layout import Layout, Slot
from ..updates.averages import average, debiased
from ..updates.basis import Shape, State
from ..updates.update import Update
from .grafting import graft_flops, graft_layout, graft_step, grafted


class Preconditioner(Protocol):
    """What statistics a preconditioner keeps of m x n gradients, and what direction it gives one."""

    def layout(self, shape: Shape, options: Options) -> Layout:
        """Return the state kept, grafting and momentum left out."""

    def flops(self, shape: Shape, options: Options) -> Flops:
        """Return the arithmetic, grafting and momentum left out."""

    def accumulate(self, G: Tensor, state: State, t: int, options: Options) -> None:
        """Take G, the t-th gradient, into the statistics. Called at every step."""

    def precondition(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Return the preconditioned G. Called after `accumulate`, from the start step on."""


@dataclass(frozen=True, kw_only=True)
class Preconditioned(Update):
    """An update of a matrix in its own coordinates: accumulate, precondition, graft, average.

        u = preconditioned G, at the length of the graft's step      (the graft's step itself before `start_step`)
        M = EMA[u], bias-corrected, with decay betas[0]               (no momentum and no state for it at 0)
        step M

    Without grafting (`graft` "none") there is nothing to take before the start step: preconditioning starts at once.
    Momentum comes last, of steps that have their length already, as in Anil et al. 2020, Scalable Second Order
    Optimization for Deep Learning. There it is a sum (and Nesterov's); here it is an average, so that a learning rate
    keeps its meaning whatever betas[0] is.

    Attributes:
        preconditioner: What gives the direction.
    """

    preconditioner: Preconditioner

    def slots(self, shape: Shape, options: Options) -> Layout:
        """Return the state kept for a matrix."""
        layout = {**self.preconditioner.layout(shape, options), **graft_layout(shape, options)}
        if options["betas"][0] > 0:
            layout["exp_avg"] = Slot(shape, "moment", ("row", "column"))
        return layout

    def work(self, shape: Shape, options: Options) -> Flops:
        """Return its arithmetic."""
        own = self.preconditioner.flops(shape, options)
        momentum = 3 * shape[0] * shape[1] if options["betas"][0] > 0 else 0
        return Flops(own.step + graft_flops(shape, options) + momentum, own.refresh, own.bound)

    def step(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Take G, the t-th gradient, into the state and return the step, which must not be modified."""
        self.preconditioner.accumulate(G, state, t, options)
        step = self._unaveraged(G, state, t, options)
        if "exp_avg" not in state:
            return step
        return average(state["exp_avg"], step, debiased(options["betas"][0], t))

    def _unaveraged(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        graft = graft_step(G, state, t, options)
        if graft is not None and t < options["start_step"]:
            return graft
        direction = self.preconditioner.precondition(G, state, t, options)
        return direction if graft is None else grafted(direction, graft)
