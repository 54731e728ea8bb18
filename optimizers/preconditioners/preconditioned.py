"""Preconditioned steps: a preconditioner's direction, grafted to another method's length, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..flops import Flops
from ..state.layout import Layout, Slot
from ..updates.averages import average, debiased
from ..updates.update import Hyper, State, WholeStep
from .grafting import graft_flops, graft_layout, graft_step, grafted


class Preconditioner(Protocol):
    """What statistics a preconditioner keeps of m x n gradients, and what direction it gives one."""

    def layout(self, m: int, n: int, hyper: Hyper) -> Layout:
        """Return the state kept, grafting and momentum left out."""

    def flops(self, m: int, n: int, hyper: Hyper) -> Flops:
        """Return the arithmetic, grafting and momentum left out."""

    def accumulate(self, G: Tensor, state: State, t: int, hyper: Hyper) -> None:
        """Take G, the t-th gradient, into the statistics. Called at every step."""

    def precondition(self, G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
        """Return the preconditioned G. Called after `accumulate`, from the start step on."""


@dataclass(frozen=True)
class Preconditioned:
    """A step rule: accumulate, precondition, graft, average.

        u = preconditioned G, at the length of the graft's step      (the graft's step itself before `start_step`)
        M = EMA[u], bias-corrected, with decay betas[0]               (no momentum and no state for it at 0)
        step M

    Without grafting (`graft` "none") there is nothing to take before the start step: preconditioning starts at once.
    Momentum comes last, of steps that have their length already, as in Anil et al. 2020, Scalable Second Order
    Optimization for Deep Learning. There it is a sum (and Nesterov's); here it is an average, so that a learning rate
    keeps its meaning whatever betas[0] is.

    Attributes:
        name: Its id in the option `moments`.
        preconditioner: What gives the direction.
        betas: Default decays of the momentum and of all statistics.
        eps: Default smoothing constant of the preconditioner, which says relative to what.
        vector: The moments for tensors that are not matrices.
        averages_gradient: False: the average is one of steps.
        smallest_rank: The smallest `rank` that means something to the preconditioner.
        whole_step: None: the step has to be made before it can be taken.
    """

    name: str
    preconditioner: Preconditioner
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    vector: str = "adam"
    averages_gradient: bool = False
    smallest_rank: int = 1
    whole_step: WholeStep | None = None

    def layout(self, m: int, n: int, hyper: Hyper) -> Layout:
        """Return the state kept for an m x n matrix."""
        layout = {**self.preconditioner.layout(m, n, hyper), **graft_layout(m, n, hyper)}
        if hyper["betas"][0] > 0:
            layout["exp_avg"] = Slot((m, n), "moment", ("row", "column"))
        return layout

    def flops(self, m: int, n: int, hyper: Hyper) -> Flops:
        """Return its arithmetic."""
        own = self.preconditioner.flops(m, n, hyper)
        momentum = 3 * m * n if hyper["betas"][0] > 0 else 0
        return Flops(own.step + graft_flops(m, n, hyper) + momentum, own.refresh, own.bound)

    def update(self, G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
        """Take G, the t-th gradient, into the state and return the step, which must not be modified."""
        self.preconditioner.accumulate(G, state, t, hyper)
        step = self._unaveraged(G, state, t, hyper)
        if "exp_avg" not in state:
            return step
        return average(state["exp_avg"], step, debiased(hyper["betas"][0], t))

    def _unaveraged(self, G: Tensor, state: State, t: int, hyper: Hyper) -> Tensor:
        graft = graft_step(G, state, t, hyper)
        if graft is not None and t < hyper["start_step"]:
            return graft
        direction = self.preconditioner.precondition(G, state, t, hyper)
        return direction if graft is None else grafted(direction, graft)
