"""The optimizer: any basis with any moments, for any parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast, overload

import torch
from torch import Tensor

from .cell import rule_of
from .options import OPTIONS, validated
from .slots import Dtypes, allocate


class Composed(torch.optim.Optimizer):
    """W <- W - lr (scale * lift(moments(project(G))) + weight_decay * W), for every parameter.

    Args:
        params: Parameters, (name, parameter) pairs, or groups of either; a group may override any option.
        lr: Learning rate, > 0, a number or a one-element tensor.
        weight_decay: Decoupled decay per unit of lr, >= 0.
        maximize: Ascend instead.
        **options: The options of `subopt.optimizers.options`; `basis` and `moments` choose the cell.

    State is tensors only: it loads with `torch.load(weights_only=True)`, and every tensor keeps its dtype through
    `load_state_dict`, also under bfloat16 parameters. A parameter's non-finite gradient counts as a zero one and is
    counted in its state; nothing waits for the device outside a refresh.

    Raises:
        OptionError: An unknown option or a value out of range.
        RuntimeError: A sparse gradient, or a complex parameter.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        defaults = {name: option.default for name, option in OPTIONS.items()}
        defaults |= options | {"lr": lr, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, validated(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its options override the optimizer's and are checked like them."""
        given = {key: value for key, value in param_group.items() if key not in _NOT_OPTIONS}
        inherited = {
            key: value
            for key, value in self.defaults.items()
            if "moments" not in given or key not in {"betas", "eps"}
        }
        checked = validated({"betas": None, "eps": None} | inherited | given)
        super().add_param_group({**param_group, **checked})
        for parameter in self.param_groups[-1]["params"]:
            if parameter.is_complex():
                raise RuntimeError("complex parameters are not supported: use torch.view_as_real")

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel() > 0:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = cast(Tensor, parameter.grad)
        if gradient.is_sparse:
            raise RuntimeError(
                "sparse gradients are not supported: build the embedding with sparse=False"
            )
        rule = rule_of(group, parameter.shape)
        state = self.state[parameter]
        dtypes = Dtypes.of(parameter.dtype, group["state_dtype"], group["basis_dtype"])
        if not state:
            state.update(allocate(rule.layout(parameter.shape), dtypes, parameter.device))
        state["step"].add_(1)
        t = int(state["step"])

        # Ten times faster on a CPU than an infinity norm. A gradient whose squares would overflow is as bad as one
        # that did; NaN compares false.
        low, high = torch.aminmax(gradient)
        largest = torch.maximum(-low, high).to(dtypes.compute)
        finite = largest < (torch.finfo(dtypes.compute).max / gradient.numel()) ** 0.5
        state["nonfinite_gradients"].add_(~finite)
        gradient = torch.where(finite, gradient.to(dtypes.compute), 0.0)
        if group["maximize"]:
            gradient.neg_()
        rule.apply(parameter, gradient, finite & (largest > 0), state, t, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; unlike the base class, cast nothing: float32 bases stay float32 under bfloat16 parameters.

        Raises:
            ValueError: The state is not of this optimizer: other groups, or other tensors than its methods keep.
        """
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        own = [(p, group) for group in self.param_groups for p in group["params"]]
        pairs = list(zip(saved, own, strict=False))
        layouts = {key: self._slots(parameter, group) for key, (parameter, group) in pairs}
        for key, values in state_dict["state"].items():
            _check_state(key, values, layouts.get(key, {}))
        super().load_state_dict(state_dict)
        for key, (parameter, _) in pairs:
            for name, value in state_dict["state"].get(key, {}).items():
                # Counts live on the CPU, or every step would wait for the device.
                on_cpu = layouts[key][name][2] == "count"
                self.state[parameter][name] = value.cpu() if on_cpu else value.to(parameter.device)

    @staticmethod
    def _slots(parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        dtypes = Dtypes.of(parameter.dtype, group["state_dtype"], group["basis_dtype"])
        layout = rule_of(group, parameter.shape).layout(parameter.shape)
        return {n: (slot.shape, dtypes.slot(slot.kind), slot.kind) for n, slot in layout.items()}

    def diagnostics(self) -> dict[str, float]:
        """Return what went on inside: counts over all parameters and the worst ||P^T P - I||_F of their bases."""
        counts = {"refreshes": 0.0, "kept_bases": 0.0, "nonfinite_gradients": 0.0}
        worst = 0.0
        for state in self.state.values():
            for name in counts:
                counts[name] += float(state[name]) if name in state else 0.0
            for name in ("basis_left", "basis_right"):
                if name in state:
                    worst = max(worst, orthonormality_error(state[name]))
        return {**counts, "max_orthonormality_error": worst}


def orthonormality_error(P: Tensor) -> float:
    """Return ||P^T P - I||_F."""
    wide = P.to(torch.float64)
    identity = torch.eye(P.shape[1], dtype=torch.float64, device=P.device)
    return float(torch.linalg.matrix_norm(wide.mT @ wide - identity))


def _check_state(key: Any, values: Mapping[str, Tensor], slots: Mapping[str, Any]) -> None:
    held = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
    wanted = {name: (shape, dtype) for name, (shape, dtype, _) in slots.items()}
    if held != wanted:
        wrong = sorted(n for n in held.keys() | wanted.keys() if held.get(n) != wanted.get(n))
        raise ValueError(
            f"the state of parameter {key} is not this optimizer's: {', '.join(wrong)} differ in "
            "presence, shape or dtype; was it saved by another method or with other options?"
        )


# Keys that torch and its schedulers keep in a group beside our options.
_NOT_OPTIONS = {"params", "param_names", "method", "initial_lr", "max_lr", "min_lr", "swa_lr"}
_NOT_OPTIONS |= {"base_momentum", "max_momentum"}
