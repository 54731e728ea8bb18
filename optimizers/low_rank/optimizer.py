"""The optimizer of models with low-rank layers: two evaluations of the loss a step, one once the bases are frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..optimizer import Composed, orthonormality_error
from ..state.layout import Dtypes, Layout, allocate, layout_bytes
from .convert import largest_rank, low_rank_layers
from .layer_step import LayerStep, factor_layouts
from .linear import FACTORS, LowRankLayer, Pass, gradients_of

Closure = Callable[[], Any]


class DLRT(Composed):
    """Dynamical low-rank training of a model's low-rank layers, and `Composed` for its other parameters.

    A step, with W = U S V^T, K = U S, L = V S^T, G the gradient by W, and N what the integrator makes of a gradient:

    1. `closure()` gives G V and G^T U in one backward pass, and with them N_K and N_L.
    2. Adaptive rank: Ua = orth[U | N_K], Va = orth[V | N_L]; fixed rank: Ua = orth(K - h N_K), Va = orth(L - h N_L).
    3. S0 = (Ua^T U) S (V^T Va); `closure()` again, of the same batch, gives Ua^T G Va; Sa = S0 - h N_S.
    4. Adaptive rank: Sa = P diag(sigma) Q^T, cut to the smallest rank whose tail is at most theta (`tau`,
       `truncation`); U = Ua P, S = diag(sigma), V = Va Q. Fixed rank: U = Ua, S = Sa, V = Va.

    With `rank_mode: frozen`, or once no layer's rank has changed for `settle_steps` steps, only S moves, by one
    evaluation a step: S-fine-tuning, which the convergence theorems of section 5 are about. The moments of K and L are
    dropped then, and the ranks stay for good.

    Parameters that are not factors move by the gradients of the last evaluation: with the bases fixed, they and S are
    coordinates of one loss, which the step descends in all of them at once. At an adaptive rank both evaluations are of
    the same point, and it makes no difference but for rounding.

    The closure clears the gradients, computes the loss of one batch, the same one whenever it is called within a step,
    calls `backward` and returns the loss; `step` returns the first. The second evaluation sees the random numbers and
    the buffers of the first (see `ReplayedState`). What gradient clipping in the closure sees: the gradients of K and L
    in U.grad and V.grad, then that of S in S.grad. After the step these are None.

    Memory: q (m + n) + q^2 numbers a layer, and the integrator's moments of K, L and S. From the first evaluation to
    the end of a step all layers hold bases of up to 2 q columns, or at a fixed rank the old ones beside the new.

    A checkpoint's model is loaded before its optimizer: ranks are the model's. DistributedDataParallel cannot average
    these gradients, whose sizes change. Under bfloat16 weights every step rounds new bases, which moves W by 0.35 %, a
    random walk (6 % in 300 steps, measured at lr 0): keep float32 weights, under autocast if need be.

    Differs from the paper: all layers move at once, where its theory moves one; decoupled weight decay; moments are
    carried from basis to basis (`carried`, `augmented_moments`), where the paper has momentum at frozen bases only.
    Source: Hnatiuk et al. 2024, algorithm 3.1 and equation 5.24; Schotthoefer et al. 2022.

    Args:
        params: As `Composed`; a group that holds a factor of a low-rank layer holds all three.
        model: The model that the layers are in.
        lr: Learning rate, h.
        weight_decay: Decoupled decay of W per unit of lr.
        maximize: Ascend instead.
        **options: As `Composed`, those of `LowRankOptions` by default.

    Raises:
        OptionError: An unknown option or a value out of range.
        RuntimeError: A sparse gradient, or a complex parameter.
    """

    updates_each_alone = False
    parts: ClassVar[Mapping[str, str]] = {"update": "low-rank"}

    def __init__(
        self,
        params: Iterable[Any],
        model: nn.Module,
        lr: float | Tensor = 1e-3,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        self.model = model
        super().__init__(params, lr, weight_decay=weight_decay, maximize=maximize, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: the model too, whose layers the parameters belong to."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "model": self.model}

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Take one step; return the loss of the first evaluation.

        Raises:
            RuntimeError: There is no closure.
        """
        if closure is None:
            raise RuntimeError(
                "DLRT evaluates the loss twice a step: call step(closure), where closure() clears the gradients, "
                "computes the loss of the same batch whenever it is called, calls backward() and returns the loss"
            )
        steps = [LayerStep(layer, group, self.state) for layer, group in self._trained()]
        if all(step.has_settled for step in steps):
            loss = self._evaluate(steps, closure, "core")
            for step in steps:
                step.freeze_bases()
                if step.layer.S.grad is not None:
                    step.fine_tune()
        else:
            loss = self._move(steps, closure)
        factors = self._factors()
        for group in self.param_groups:
            for parameter in group["params"]:
                is_other = id(parameter) not in factors and parameter.numel() > 0
                if is_other and parameter.grad is not None:
                    self.update(parameter, group)
        for step in steps:
            step.layer.zero_factor_gradients()
        return loss

    def _move(self, steps: list[LayerStep], closure: Closure) -> Any:
        point = ReplayedState(self.model)
        free = [step for step in steps if not step.has_frozen_bases]
        loss = self._evaluate(free, closure, "bases")
        moving = [step for step in free if step.layer.U.grad is not None]
        begun: list[LayerStep] = []
        try:
            for step in moving:
                step.move_bases()
                begun.append(step)
            point.restore()
            self._evaluate(steps, closure, "core")
            while begun:
                begun[-1].move_core()
                begun.pop()
        except BaseException:
            for step in begun:
                step.undo()
            raise
        for step in steps:
            if step.has_frozen_bases and step.layer.S.grad is not None:
                step.fine_tune()
        return loss

    def _evaluate(self, steps: list[LayerStep], closure: Closure, which: Pass) -> Any:
        self.zero_grad(set_to_none=True)
        with gradients_of([step.layer for step in steps], which), torch.enable_grad():
            return closure()

    def _trained(self) -> list[tuple[LowRankLayer, dict[str, Any]]]:
        """Return the low-rank layers whose factors this optimizer has, with their groups."""
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        return [
            (layer, groups[id(layer.S)])
            for _, layer in low_rank_layers(self.model)
            if id(layer.S) in groups and layer.S.requires_grad
        ]

    def _factors(self) -> dict[int, tuple[LowRankLayer, str]]:
        return {
            id(getattr(layer, name)): (layer, name)
            for _, layer in low_rank_layers(self.model)
            for name in FACTORS
        }

    def _layout(self, parameter: Tensor, group: Mapping[str, Any]) -> Layout:
        """Return what is kept for a parameter: for a factor, at the rank that its layer has now."""
        owner = self._factors().get(id(parameter))
        if owner is None:
            return super()._layout(parameter, group)
        layer, name = owner
        return factor_layouts(layer.dense_shape, group, layer.rank).get(name, {})

    def take_largest_form(self, others: Iterable[Tensor]) -> None:
        """Give every layer the largest rank it can come to, with values that mean nothing, and allocate all state.

        For following what a step takes, under fake tensors: one step then shows what growing takes many to show.

        Args:
            others: The parameters beside the factors that will have gradients.
        """
        for layer, group in self._trained():
            q = largest_rank(layer.dense_shape, group)
            layer.hold(
                layer.U.new_empty(len(layer.U), q),
                layer.S.new_empty(q, q),
                layer.V.new_empty(len(layer.V), q),
            )
            LayerStep(layer, group, self.state).allocate()
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        for parameter in others:
            if id(parameter) in groups and parameter.numel() > 0:
                group = groups[id(parameter)]
                dtypes = Dtypes.under(parameter.dtype, group)
                layout = self._layout(parameter, group)
                self.state[parameter].update(allocate(layout, dtypes, parameter.device))

    def planned_state_bytes(self) -> int:
        """Return the bytes that the state can come to: every layer at the largest rank its options allow."""
        growth = 0
        for layer, group in self._trained():
            dtypes = Dtypes.under(layer.S.dtype, group)
            for rank, sign in ((largest_rank(layer.dense_shape, group), 1), (layer.rank, -1)):
                layouts = factor_layouts(layer.dense_shape, group, rank).values()
                growth += sign * sum(layout_bytes(layout, dtypes) for layout in layouts)
        return super().planned_state_bytes() + growth

    def diagnostics(self) -> dict[str, float]:
        """Return `Composed`'s counts, the ranks' range and mean, and the worst ||U^T U - I||_F of all bases."""
        counts = super().diagnostics()
        layers = [layer for layer, _ in self._trained()]
        if not layers:
            return counts
        bases = [basis.detach() for layer in layers for basis in (layer.U, layer.V)]
        counts["max_orthonormality_error"] = max(
            counts["max_orthonormality_error"], *(orthonormality_error(basis) for basis in bases)
        )
        ranks = [layer.rank for layer in layers]
        mean = sum(ranks) / len(ranks)
        return {**counts, "min_rank": min(ranks), "mean_rank": mean, "max_rank": max(ranks)}


class ReplayedState:
    """Remembers torch's random state and a model's buffers, to `restore` them before a second evaluation.

    Dropout draws the same masks again, and running statistics such as batch normalisation's are updated once in all.
    Not covered: random numbers of Python's own and NumPy's generators.

    Memory: a copy of the model's buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._cpu = torch.get_rng_state()
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = [
            (module, name, buffer, buffer.clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def restore(self) -> None:
        """Put everything back, into the buffers that the model had."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
        with torch.no_grad():
            for module, name, buffer, value in self._buffers:
                module._buffers[name] = buffer
                buffer.copy_(value)
