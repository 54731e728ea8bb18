"""One cell of the composition: a basis times moments. The optimizer runs it; the method table adds it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .bases import Basis, Identity, Periodic
from .matrices import matrix_shape
from .moments import MOMENTS, Moments
from .online_pca import OnlinePCA
from .slots import Layout, Slot

BASES: dict[str, Basis] = {
    "identity": Identity(),
    "one-sided": Periodic(sides=1),
    "two-sided": Periodic(sides=2),
    "online-pca": OnlinePCA(),
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
    moments: Moments
    options: Mapping[str, Any]

    @classmethod
    def of(cls, options: Mapping[str, Any], shape: Sequence[int]) -> Cell:
        """Return the cell that these options mean for a tensor of this shape.

        Tensors that are not matrices (a side below 2) have no basis; moments that need rows and columns give way to
        their `vector` moments, with those' own eps.
        """
        moments = MOMENTS[options["moments"]]
        if matrix_shape(shape)[0] >= 2:
            return cls(BASES[options["basis"]], moments, options)
        vector = MOMENTS[moments.vector]
        if vector is not moments:
            options = {**options, "moments": vector.name, "eps": vector.eps}
        return cls(BASES["identity"], vector, options)

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return everything kept for a parameter of this shape."""
        m, n = matrix_shape(shape, short_first=self.basis.short_first)
        coordinates = self.basis.coordinates(m, n, self.options)
        return {
            **_COUNTERS,
            **self.basis.layout(m, n, self.options),
            **self.moments.layout(*coordinates),
        }

    def step_flops(self, shape: Sequence[int]) -> float:
        """Return arithmetic per step: projection, lift, moments, and a refresh divided by its period."""
        m, n = matrix_shape(shape)
        a, b = self.basis.coordinates(m, n, self.options)
        work = self.basis.flops(m, n, self.options)
        period: int = self.options["period"]
        return work.step + work.refresh / period + self.moments.flops_per_element * a * b

    def bound_flops(self, shape: Sequence[int]) -> float:
        """Return the upper bound of the basis' work per step, as Nguyen et al. 2025, section 3.4, count it."""
        m, n = matrix_shape(shape)
        return self.basis.flops(m, n, self.options).bound
