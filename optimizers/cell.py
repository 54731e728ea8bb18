"""One cell of the composition: a basis times moments. The optimizer runs it; the method table adds it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .bases import Basis, Identity
from .completion import without_rounding
from .finite import finite_gradient
from .matrices import as_matrix, as_parameter, matrix_shape
from .online_pca import OnlinePCA
from .periodic import Periodic, moment_step
from .preconditioners import STEP_RULES
from .rotation import rotations
from .slots import Layout, Slot
from .step_rule import State, StepRule
from .torch_rules import TORCH_RULES, TorchRule

IDENTITY = Identity()
BASES: dict[str, Basis] = {
    "identity": IDENTITY,
    "one-sided": Periodic(sides=1),
    "two-sided": Periodic(sides=2),
    "online-pca": OnlinePCA(),
    "online-pca-two-sided": OnlinePCA(sides=2),
}

_COUNTERS = {"step": Slot((), "count"), "nonfinite_gradients": Slot((), "device_count")}


@dataclass(frozen=True)
class Cell:
    """A basis and moments with their options.

    Attributes:
        basis: In which coordinates.
        moments: What step.
        options: Everything either of them reads.
    """

    basis: Basis
    moments: StepRule
    options: Mapping[str, Any]

    @classmethod
    def of(cls, options: Mapping[str, Any], shape: Sequence[int]) -> Cell:
        """Return the cell that these options mean for a tensor of this shape.

        Tensors that are not matrices (a side below 2) have no basis; moments that need rows and columns give way to
        their `vector` moments, with those' own eps. A matrix that the basis does not reach keeps its own coordinates.
        """
        moments = STEP_RULES[options["moments"]]
        m, n = matrix_shape(shape)
        if m >= 2:
            basis = BASES[options["basis"]]
            return cls(basis if basis.reaches(m, n, options) else IDENTITY, moments, options)
        vector = STEP_RULES[moments.vector]
        if vector is not moments:
            options = {**options, "moments": vector.name, "eps": vector.eps}
        return cls(IDENTITY, vector, options)

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return everything kept for a parameter of this shape."""
        m, n = matrix_shape(shape, short_first=self.basis.short_first)
        coordinates = self.basis.coordinates(m, n, self.options)
        return {
            **_COUNTERS,
            **self.basis.layout(m, n, self.options),
            **self.moments.layout(*coordinates, self.options),
        }

    def step_flops(self, shape: Sequence[int]) -> float:
        """Return arithmetic per step: projection, lift, moments, and refreshes divided by their period."""
        m, n = matrix_shape(shape, short_first=self.basis.short_first)
        coordinates = self.basis.coordinates(m, n, self.options)
        basis = self.basis.flops(m, n, self.options)
        moments = self.moments.flops(*coordinates, self.options)
        period: int = self.options["period"]
        return basis.step + moments.step + (basis.refresh + moments.refresh) / period

    def bound_flops(self, shape: Sequence[int]) -> float:
        """Return an upper bound of the work beyond elementwise moments: Nguyen et al. 2025, section 3.4."""
        m, n = matrix_shape(shape, short_first=self.basis.short_first)
        coordinates = self.basis.coordinates(m, n, self.options)
        moments = self.moments.flops(*coordinates, self.options)
        return self.basis.flops(m, n, self.options).bound + moments.bound

    def apply(
        self,
        parameter: Tensor,
        gradient: Tensor,
        dtype: torch.dtype,
        state: State,
        t: int,
        group: Mapping[str, Any],
    ) -> Tensor | bool:
        """Take the t-th step: basis, moments, back, and down.

        Args:
            parameter: Modified in place.
            gradient: In the parameter's shape; modified only where it is not finite.
            dtype: In which to compute.
            state: What `layout` describes; modified in place.
            t: 1, 2, ...
            group: The parameter group, for lr, scale and weight decay.

        Returns:
            Whether the gradient was finite: True where that is known, a 0-d tensor otherwise.
        """
        if not self.basis.sees_gradient(state, t, self.options):
            # Where only the projection is used it is looked at in the gradient's place: it is no larger, and not finite
            # where the gradient is not.
            projected = self._project(
                state, as_matrix(gradient.to(dtype), short_first=self.basis.short_first)
            )
            projected, finite, _ = finite_gradient(projected, dtype)
            self._move(parameter, projected, state, t, group)
            return finite
        gradient, finite, usable = finite_gradient(gradient, dtype)
        if self._took_whole_step(parameter, gradient, state, t):
            return finite
        G = as_matrix(gradient, short_first=self.basis.short_first)
        self.basis.prepare(state, G, usable, t, self.options)
        projected = self._project(state, G)
        self._move(parameter, projected, state, t, group)
        self.basis.follow(state, G, projected, usable, t, self.options)
        return finite

    def _project(self, state: State, G: Tensor) -> Tensor:
        with rotations(self.options["rotations"], G.device):
            return self.basis.project(state, G)

    def _took_whole_step(self, parameter: Tensor, gradient: Tensor, state: State, t: int) -> bool:
        """Whether the moments went all the way from gradient to parameter by themselves."""
        whole_step = self.moments.whole_step
        if self.basis is not IDENTITY or whole_step is None or self.options["scale"] != 1:
            return False
        return whole_step(parameter, gradient, state, t, self.options)

    def _move(
        self,
        parameter: Tensor,
        projected: Tensor,
        state: State,
        t: int,
        group: Mapping[str, Any],
    ) -> None:
        count = moment_step(state, t)
        if count > 0:  # at 0 the gradient only fitted the first basis
            if self.basis is not IDENTITY:
                projected = without_rounding(projected)
            step = self.moments.update(projected, state, count, self.options)
            with rotations(self.options["rotations"], step.device):
                self._descend(parameter, step, state, group)

    def _descend(
        self, parameter: Tensor, step: Tensor, state: State, group: Mapping[str, Any]
    ) -> None:
        lr, scale = group["lr"], group["scale"]
        # A learning rate that is a tensor must stay one, and only a contiguous parameter has a matrix view.
        if isinstance(lr, Tensor) or parameter.dtype != step.dtype or not parameter.is_contiguous():
            update = as_parameter(self.basis.lift(state, step), parameter.shape)
            _descend(parameter, update, group)
            return
        W = as_matrix(parameter, short_first=self.basis.short_first)
        self.basis.descend(W, state, step, lr * scale, 1 - lr * group["weight_decay"])


@dataclass(frozen=True)
class Torch:
    """An update of torch.optim with its options.

    Attributes:
        rule: The update.
        options: What it reads.
    """

    rule: TorchRule
    options: Mapping[str, Any]

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return everything kept for a parameter of this shape."""
        return {**_COUNTERS, **self.rule.layout(shape, self.options)}

    def step_flops(self, shape: Sequence[int]) -> float:
        """Return its arithmetic per step; nothing is refreshed from time to time."""
        return self.rule.flops(shape, self.options).step

    def bound_flops(self, shape: Sequence[int]) -> float:
        """Return its work beyond elementwise moments."""
        return self.rule.flops(shape, self.options).bound

    def apply(
        self,
        parameter: Tensor,
        gradient: Tensor,
        dtype: torch.dtype,
        state: State,
        t: int,
        group: Mapping[str, Any],
    ) -> Tensor | bool:
        """Take the t-th step as torch takes it; return whether the gradient was finite."""
        gradient, finite, _ = finite_gradient(gradient, dtype)
        self.rule.apply(parameter, gradient, state, t, group)
        return finite


def rule_of(options: Mapping[str, Any], shape: Sequence[int]) -> Cell | Torch:
    """Return what these options mean for a tensor of this shape."""
    name = options["moments"]
    if name not in TORCH_RULES:
        return Cell.of(options, shape)
    rule = TORCH_RULES[name]
    if rule.vector == name or matrix_shape(shape)[0] >= 2:
        return Torch(rule, options)
    vector = STEP_RULES[rule.vector]
    return Cell.of(
        {**options, "moments": vector.name, "betas": vector.betas, "eps": vector.eps}, shape
    )


def _descend(parameter: Tensor, update: Tensor, group: Mapping[str, Any]) -> None:
    lr, scale = group["lr"], group["scale"]
    if group["weight_decay"] != 0:
        parameter.mul_(1 - lr * group["weight_decay"])
    if isinstance(lr, Tensor):
        parameter.sub_(update * (lr * scale))
    else:
        parameter.add_(update, alpha=-lr * scale)
