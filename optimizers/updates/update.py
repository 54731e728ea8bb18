"""The update of one whole tensor by its gradient: the interface of everything that steps, and its usual form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..finite import finite_gradient
from ..flops import Flops
from ..matrices import as_matrix, as_parameter, matrix_shape
from ..options import Options, PartOptions
from ..state.layout import Layout, Slot, compute_dtype
from .basis import IDENTITY, Basis, State, moment_step
from .precision import rotations
from .rounding import without_rounding

COUNTERS: dict[str, Slot] = {
    "step": Slot((), "count"),
    "nonfinite_gradients": Slot((), "device_count"),
}


@dataclass(frozen=True)
class Update:
    """An update of one whole tensor by its gradient, with state of its own.

    `layout`, `flops` and `apply` are the protocol; they need nothing but the tensor, its gradient, its state and its
    options, wherever these are held. The usual form goes through a basis: G to coordinates, `step` there, and back to
    the weights. Such an update says what it keeps (`slots`), what that costs (`work`) and what the step is. One that
    takes the whole step by itself overrides the protocol.

    Attributes:
        name: Its id in the option `moments` or `update`.
        options: Its options.
        vector: The update of tensors that are not matrices; its own name where it takes every shape.
        vector_options: What these have in the place of the options of the same name.
        basis: In which coordinates it steps.
        averages_gradient: Whether `exp_avg` is an average of gradients that a basis may be computed from.
    """

    vector_options: ClassVar[Options] = {"eps": 1e-8}

    name: str
    options: type[PartOptions]
    vector: str = "adam"
    basis: Basis = IDENTITY
    averages_gradient: bool = False

    def slots(self, shape: tuple[int, int], options: Options) -> Layout:
        """Return the state kept for coordinates of this shape."""
        raise NotImplementedError

    def work(self, shape: tuple[int, int], options: Options) -> Flops:
        """Return the arithmetic of a step in coordinates of this shape."""
        raise NotImplementedError

    def step(self, G: Tensor, state: State, t: int, options: Options) -> Tensor:
        """Take G, the t-th gradient, into the state and return the step, which must not be modified."""
        raise NotImplementedError

    def layout(self, shape: Sequence[int], options: Options) -> Layout:
        """Return everything kept for a tensor of this shape."""
        matrix = matrix_shape(shape, short_first=self.basis.short_first)
        coordinates = self.basis.coordinates(matrix, options)
        return {
            **COUNTERS,
            **self.basis.layout(matrix, options),
            **self.slots(coordinates, options),
        }

    def flops(self, shape: Sequence[int], options: Options) -> Flops:
        """Return the arithmetic of a step, of a refresh, and an upper bound of what is not elementwise."""
        matrix = matrix_shape(shape, short_first=self.basis.short_first)
        basis = self.basis.flops(matrix, options)
        own = self.work(self.basis.coordinates(matrix, options), options)
        return Flops(basis.step + own.step, basis.refresh + own.refresh, basis.bound + own.bound)

    def apply(
        self, parameter: Tensor, gradient: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take the t-th step: basis, step, back, and down.

        Args:
            parameter: Modified in place.
            gradient: In the parameter's shape; modified only where it is not finite.
            state: What `layout` describes; modified in place. A gradient that is not finite is counted there.
            t: 1, 2, ...
            group: The options: a parameter group.
        """
        basis, dtype = self.basis, compute_dtype(parameter.dtype)
        if basis.sees_gradient(state, t, group):
            gradient, finite, usable = finite_gradient(gradient, dtype)
            G = as_matrix(gradient, short_first=basis.short_first)
            basis.prepare(state, G, usable, t, group)
            projected = self._projected(G, state, group)
            self.descend(parameter, projected, state, t, group)
            basis.follow(state, G, projected, usable, t, group)
        else:
            # Where only the projection is used it is looked at in the gradient's place: it is no larger, and not finite
            # where the gradient is not.
            G = as_matrix(gradient.to(dtype), short_first=basis.short_first)
            projected, finite, _ = finite_gradient(self._projected(G, state, group), dtype)
            self.descend(parameter, projected, state, t, group)
        count_nonfinite(state, finite)

    def _projected(self, G: Tensor, state: State, group: Options) -> Tensor:
        with rotations(self.basis.precision(group), G.device):
            return self.basis.project(state, G)

    def descend(
        self, parameter: Tensor, projected: Tensor, state: State, t: int, group: Options
    ) -> None:
        """Take the step of a finite gradient that is in the basis' coordinates."""
        count = moment_step(state, t)
        if count == 0:  # the gradient only fitted the first basis
            return
        if self.basis.is_rotated:
            projected = without_rounding(projected)
        step = self.step(projected, state, count, group)
        basis, lr, decay = self.basis, group["lr"], group["weight_decay"]
        rate = lr * basis.scale(group)
        with rotations(basis.precision(group), step.device):
            if (
                parameter.dtype == step.dtype
                and parameter.is_contiguous()
                and not isinstance(lr, Tensor)
            ):
                W = as_matrix(parameter, short_first=basis.short_first)
                basis.descend(W, state, step, rate, 1 - lr * decay)
                return
            # A rate that is a tensor must stay one, and only a contiguous parameter has a matrix view.
            lifted = as_parameter(basis.lift(state, step), parameter.shape)
            if decay != 0:
                parameter.mul_(1 - lr * decay)
            if isinstance(rate, Tensor):
                parameter.sub_(lifted * rate)
            else:
                parameter.add_(lifted, alpha=-rate)


def count_nonfinite(state: State, finite: Tensor | bool) -> None:
    """Count a gradient that was not finite; nothing waits for the device."""
    if isinstance(finite, Tensor):
        state["nonfinite_gradients"].add_(~finite)
