"""The optimizer: any basis with any moments, for any parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast, overload

import torch
from torch import Tensor

from .bases.basis import phase_of
from .composition import rule_of
from .options import OPTIONS, validated
from .state import low_bit
from .state.layout import Dtypes, Layout, allocate, layout_bytes


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

    # Whether a step is an update of every parameter by its own gradient and nothing else.
    updates_each_alone: ClassVar[bool] = True

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
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = {key: value for key, value in param_group.items() if key not in _NOT_OPTIONS}
        inherited = {
            key: value
            for key, value in self.defaults.items()
            if "moments" not in given or key not in {"betas", "eps"}
        }
        checked = validated({"betas": None, "eps": None} | inherited | given)
        if checked["state_dtype"] == low_bit.STATE_DTYPE:
            low_bit.require()  # now, rather than in the first step
        super().add_param_group({**param_group, **checked})
        if any(parameter.is_complex() for parameter in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise RuntimeError("complex parameters are not supported: use torch.view_as_real")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The base class adds this. It is no option of ours, and groups added later would be refused for it.
        self.defaults.pop("differentiable", None)
        if any(group.get("state_dtype") == low_bit.STATE_DTYPE for group in self.param_groups):
            low_bit.require()

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
                    self.update(parameter, group)
        return loss

    def update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Move one parameter that has a gradient: what `step` does with each, reading and changing no other.

        Call it under `torch.no_grad()`.

        Raises:
            RuntimeError: A sparse gradient.
        """
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
            if "phase" in state:
                state["phase"].fill_(phase_of(parameter, self.param_groups))
        state["step"].add_(1)
        t = int(state["step"])

        if group["maximize"]:
            gradient = -gradient
        finite = rule.apply(parameter, gradient, dtypes.compute, state, t, group)
        if finite is not True:
            state["nonfinite_gradients"].add_(~finite)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; unlike the base class, cast nothing: float32 bases stay float32 under bfloat16 parameters.

        An option that the saved groups lack, because an older version wrote them, keeps this optimizer's value.

        Raises:
            ValueError: The state is not of this optimizer: other groups, or other tensors than its methods keep.
        """
        placed: dict[Tensor, dict[str, Tensor]] = {}

        def check(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
            placed.update(self._placed(saved))
            return {**saved, "state": {}, "param_groups": self._completed(saved["param_groups"])}

        # As hooks: after the user's pre-hooks, which may bring another state, and before the user's post-hooks.
        checking = self.register_load_state_dict_pre_hook(check)
        filling = self.register_load_state_dict_post_hook(
            lambda _: self.state.update(placed), prepend=True
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            checking.remove()
            filling.remove()

    def _placed(self, saved: Mapping[str, Any]) -> dict[Tensor, dict[str, Tensor]]:
        """Return every parameter's saved state, checked, on the device where it belongs."""
        keys = [key for group in saved["param_groups"] for key in group["params"]]
        own = [(p, group) for group in self.param_groups for p in group["params"]]
        known = dict(zip(keys, own, strict=False))
        placed = {}
        for key, values in saved["state"].items():
            if not values:
                continue
            slots = self._slots(*known[key]) if key in known else {}
            _check_state(key, values, slots)
            parameter = known[key][0]
            # Counts live on the CPU, or every step would wait for the device.
            placed[parameter] = {
                name: value.cpu() if slots[name][2] == "count" else value.to(parameter.device)
                for name, value in values.items()
            }
        return placed

    def _completed(self, saved: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return saved groups with the options that they lack."""
        own = [{k: g[k] for k in self.defaults if k in g} for g in self.param_groups]
        own += [{}] * (len(saved) - len(own))
        return [ours | dict(group) for ours, group in zip(own, saved, strict=False)]

    def _layout(self, parameter: Tensor, group: Mapping[str, Any]) -> Layout:
        """Return what is kept for a parameter of this group."""
        return rule_of(group, parameter.shape).layout(parameter.shape)

    def _slots(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        dtypes = Dtypes.of(parameter.dtype, group["state_dtype"], group["basis_dtype"])
        layout = self._layout(parameter, group)
        return {n: (slot.shape, dtypes.slot(slot), slot.kind) for n, slot in layout.items()}

    def planned_state_bytes(self) -> int:
        """Return the bytes that the state takes once every parameter has had a gradient, by the description of it."""
        total = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                dtypes = Dtypes.of(parameter.dtype, group["state_dtype"], group["basis_dtype"])
                total += layout_bytes(self._layout(parameter, group), dtypes)
        return total

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


def _check_state(key: Any, values: Mapping[str, Any], slots: Mapping[str, Any]) -> None:
    held = {
        name: (tuple(value.shape), low_bit.stored_dtype(value))
        if isinstance(value, Tensor)
        else None
        for name, value in values.items()
    }
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
