"""The method record of dynamical low-rank training: what its layers and their training cost, and how to set them up.

Shapes are those of the dense weights that low-rank layers stand for; counts are of the largest rank the options
allow, unless a rank is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..low_rank.convert import dense_state_dict, largest_rank, replace_layers
from ..low_rank.integrator import INTEGRATORS
from ..low_rank.layer_step import factor_layouts
from ..low_rank.linear import LowRankLinear
from ..low_rank.optimizer import DLRT
from ..matrices import matrix_shape
from ..options import Options
from ..state.form_mode import FormMode
from ..state.layout import Dtypes, layout_bytes
from ..state.storage_tracker import StorageTracker
from .method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankMethod(Method):
    """A method that trains low-rank layers in the place of the model's dense ones."""

    def weight_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Options | None = None,
        *,
        rank: int | None = None,
    ) -> int:
        """Return the bytes of U, S and V: q (m + n) + q^2 numbers."""
        m, n = matrix_shape(shape)
        q = rank or largest_rank(shape, self.resolve(options))
        return (q * (m + n) + q * q) * dtype.itemsize

    def state_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Options | None = None,
        *,
        counters: bool = True,
        rank: int | None = None,
    ) -> int:
        """Return the bytes of the moments of K, L and S, and of the layer's counters."""
        resolved = self.resolve(options)
        dtypes = Dtypes.under(dtype, resolved)
        layouts = factor_layouts(shape, resolved, rank or largest_rank(shape, resolved)).values()
        return sum(layout_bytes(layout, dtypes, counters=counters) for layout in layouts)

    def transient_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Options | None = None,
    ) -> int:
        """Return the peak bytes, in a step of one layer on one sample, of what neither weights nor state account for.

        The gradients of the factors and the augmented bases: these last live in all layers at once.
        """
        resolved = self.resolve(options)
        hashable = {k: tuple(v) if isinstance(v, list) else v for k, v in resolved.items()}
        frozen = tuple(sorted(hashable.items()))
        return _transient_bytes(matrix_shape(shape, short_first=False), dtype, frozen)

    def step_flops(self, shape: Sequence[int], options: Options | None = None) -> float:
        """Return the arithmetic of a step beyond the evaluations of the loss; the second of these is not counted."""
        resolved = self.resolve(options)
        m, n = matrix_shape(shape)
        q = largest_rank(shape, resolved)
        per_element = INTEGRATORS[resolved["integrator"]].flops_per_element
        if resolved["rank_mode"] == "frozen":
            return float(per_element * q * q)
        factor = 2 if resolved["rank_mode"] == "adaptive" else 1
        a, b = min(factor * q, m), min(factor * q, n)
        # Q and R of an m x a matrix take 4 m a^2, a square singular value decomposition 21 a^3 (Golub and Van Loan,
        # sections 5.2 and 8.6); beside them S0, and the new bases at an adaptive rank.
        bases = 4 * (m * a**2 + n * b**2) + 2 * factor * q * (m * a + n * b)
        return float(
            bases + (21 * a**3 if factor == 2 else 0) + per_element * (q * (m + n) + a * b)
        )

    def bound_flops(self, shape: Sequence[int], options: Options | None = None) -> float:
        """Return the same: every step is alike."""
        return self.step_flops(shape, options)

    def replace(
        self, model: nn.Module, settings: Mapping[str, Options]
    ) -> dict[str, list[tuple[str, Tensor]]]:
        """Put low-rank layers in the place of those that hold the named weights: see `replace_layers`."""
        return replace_layers(model, settings)

    def optimizer(self, groups: list[dict[str, Any]], model: nn.Module) -> DLRT:
        """Return the optimizer of these groups."""
        return DLRT(groups, model)

    def dense_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state with dense weights under their old names."""
        return dense_state_dict(model)


DLRT_METHOD = LowRankMethod(
    name="dlrt",
    summary="layers as U S V^T whose ranks adapt; weights shrink too, two evaluations of the loss a step",
    paper=(
        "Hnatiuk et al. 2024, Stochastic Aspects of Dynamical Low-Rank Approximation in the Context of Machine "
        "Learning"
    ),
    section="algorithm 3.1",
    # A step's new directions are cut unless they are above the tolerance at once, so ranks shrink more easily than they
    # grow: start near the break-even rank.
    options={"update": "low-rank", "rank": 0.5},
    tunable=(
        "integrator", "betas", "eps", "nesterov_weight", "rank", "max_rank", "rank_mode", "tau", "truncation",
        "settle_steps", "state_dtype",
    ),
    state_formula="2(q(m + n) + q^2)",
    capabilities=frozenset({"bf16_parameters", "closure", "needs_closure", "rank"}),
    layers=frozenset({"linear", "conv"}),
    # A coarser or finer truncation; the largest rank, which memory is counted at, is the same.
    test_inputs=(
        {},
        {"integrator": "sgd", "rank_mode": "fixed", "rank": 2},
        {"integrator": "momentum", "nesterov_weight": 1.0, "tau": 0.3},
        {"truncation": "absolute", "tau": 0.05, "max_rank": 1.0, "settle_steps": 3},
        {"rank_mode": "frozen"},
    ),
    error_inputs=(
        ({"rank": 0}, "Invalid rank"),
        ({"max_rank": 1.5}, "Invalid max_rank"),
        ({"tau": -0.1}, "Invalid tau"),
        ({"rank_mode": "free"}, "Invalid rank_mode"),
        ({"integrator": "lion"}, "Invalid integrator"),
        ({"settle_steps": -1}, "Invalid settle_steps"),
        ({"nesterov_weight": 11.0}, "Invalid nesterov_weight"),
        ({"state_dtype": "8bit"}, "cannot keep their moments in 8-bit"),
    ),
)  # fmt: skip


@lru_cache(maxsize=4096)
def _transient_bytes(
    shape: tuple[int, int], dtype: torch.dtype, options: tuple[tuple[str, Any], ...]
) -> int:
    resolved = dict(options)
    (m, n), q = shape, largest_rank(shape, resolved)
    with FormMode():
        U, S, V = (torch.empty(rows, q, dtype=dtype) for rows in (m, q, n))
        layer = LowRankLinear(U, S, V)
        optimizer = DLRT(layer.parameters(), layer, **resolved)
        x = torch.empty(1, n, dtype=dtype)

        def closure() -> None:
            layer(x).sum().backward()

        # The first step allocates the state; the second is the one to watch.
        optimizer.step(closure)
        states = [value for state in optimizer.state.values() for value in state.values()]
        with StorageTracker() as tracker:
            tracker.file([x, *layer.parameters(), *states], "retained")
            retained = tracker.live_bytes["retained"]
            optimizer.step(closure)
        peak: int = sum(tracker.peak_bytes.values()) - retained
        return peak
