"""The optimizer: any basis with any moments, for any parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any, ClassVar, cast, overload

import torch
from torch import Tensor

from .bases.online_pca import is_basis_lr_capped
from .composition import OPTION_NAMES, known_options, part_names, resolved, update_for
from .options import CommonOptions, options_of
from .state import low_bit
from .state.layout import Dtypes, Layout, allocate, layout_bytes
from .updates.basis import phase_of

_COMMON = options_of(CommonOptions).keys()
# What a group holds beside options; a schedule records rates of its own there, such as `initial_lr`.
_KEPT_BESIDE = _COMMON | {"params", "param_names", "method"}


# Options that earlier versions did not save, with what these did: a run goes on as it began.
EARLIER_OPTIONS = {"basis_lr_cap": 0.01, "ridge": "absolute"}


class Composed(torch.optim.Optimizer):
    """W <- W - lr (scale * lift(moments(project(G))) + weight_decay * W), for every parameter.

    Args:
        params: Parameters, (name, parameter) pairs, or groups of either; a group may override any option.
        lr: Learning rate, > 0, a number or a one-element tensor.
        weight_decay: Decoupled decay per unit of lr, >= 0.
        maximize: Ascend instead.
        **options: `basis` and `moments`, or the `update` of whole matrices, and their options (see `composition`).

    State is tensors only: it loads with `torch.load(weights_only=True)`, and every tensor keeps its dtype through
    `load_state_dict`, also under bfloat16 parameters. A parameter's non-finite gradient counts as a zero one and is
    counted in its state; nothing waits for the device outside a refresh.

    Raises:
        OptionError: An unknown option or a value out of range.
        RuntimeError: A sparse gradient, or a complex parameter.
    """

    # Whether a step is an update of every parameter by its own gradient and nothing else.
    updates_each_alone: ClassVar[bool] = True
    # What steps where nobody says otherwise.
    parts: ClassVar[Mapping[str, str]] = {"basis": "identity", "moments": "adam"}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        common = CommonOptions(lr, weight_decay, maximize)
        super().__init__(params, {**vars(common), **resolved(options, self.parts)})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it has the optimizer's options where it names no others, and none that its parts do not have.

        Raises:
            OptionError: An option that the group's parts do not have, or a value out of range.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        common = {name: param_group.get(name, self.defaults[name]) for name in _COMMON}
        given = {
            key: value
            for key, value in param_group.items()
            if key in OPTION_NAMES
            or not (key in _KEPT_BESIDE or key.endswith(("_lr", "_momentum")))
        }
        checked = {**vars(CommonOptions(**common)), **resolved(given, self.defaults)}
        if low_bit.is_asked_for(checked):
            low_bit.require()  # now, rather than in the first step
        super().add_param_group({**param_group, **checked})
        for name in self.defaults.keys() - checked.keys():  # torch puts all defaults in
            del self.param_groups[-1][name]
        if any(parameter.is_complex() for parameter in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise RuntimeError("complex parameters are not supported: use torch.view_as_real")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The base class adds this. It is no option of ours, and groups added later would be refused for it.
        self.defaults.pop("differentiable", None)
        if any(map(low_bit.is_asked_for, self.param_groups)):
            low_bit.require()

    def __repr__(self) -> str:
        """Return the method and the options of every group, one in a line."""
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            shown = {key: group[key] for key in group if key not in {"params", "param_names"}}
            method = shown.pop("method", " with ".join(part_names(group, {}).values()))
            lines.append(f"Parameter Group {index}: {method}, {len(group['params'])} tensors")
            lines += [f"    {key}: {shown[key]}" for key in sorted(shown)]
        return "\n".join([*lines, ")"])

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
        update, options = update_for(group, parameter.shape)
        state = self.state[parameter]
        if not state:
            dtypes = Dtypes.under(parameter.dtype, group)
            state.update(
                allocate(update.layout(parameter.shape, options), dtypes, parameter.device)
            )
            if "phase" in state:
                state["phase"].fill_(phase_of(parameter, self.param_groups))
        state["step"].add_(1)
        if group["maximize"]:
            gradient = -gradient
        update.apply(parameter, gradient, state, int(state["step"]), options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; unlike the base class, cast nothing: float32 bases stay float32 under bfloat16 parameters.

        An option that the saved groups lack, since an earlier version wrote them, gets what that version did
        (`EARLIER_OPTIONS`) or keeps this optimizer's value. Earlier
        versions wrote the options of every method into every group: those that are not the group's own are dropped.

        Raises:
            ValueError: The state is not of this optimizer: other groups, or other tensors than its methods keep.
        """
        placed: dict[Tensor, dict[str, Tensor]] = {}

        def check(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
            placed.update(self._placed(saved))
            groups = [
                _completed(group, own)
                for group, own in zip_longest(saved["param_groups"], self.param_groups)
                if group is not None
            ]
            return {**saved, "state": {}, "param_groups": groups}

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

    def _layout(self, parameter: Tensor, group: Mapping[str, Any]) -> Layout:
        """Return what is kept for a parameter of this group."""
        update, options = update_for(group, parameter.shape)
        return update.layout(parameter.shape, options)

    def _slots(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        dtypes = Dtypes.under(parameter.dtype, group)
        layout = self._layout(parameter, group)
        return {n: (slot.shape, dtypes.slot(slot), slot.slot_type) for n, slot in layout.items()}

    def planned_state_bytes(self) -> int:
        """Return the bytes that the state takes once every parameter has had a gradient, by the description of it."""
        total = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                dtypes = Dtypes.under(parameter.dtype, group)
                total += layout_bytes(self._layout(parameter, group), dtypes)
        return total

    def diagnostics(self) -> dict[str, float]:
        """Return what went on inside: counts over all parameters and the worst ||P^T P - I||_F of their bases.

        `capped_basis_lrs`: groups whose basis moves at `basis_lr_cap` now, and not at its ratio of their rate.
        """
        counts = {"refreshes": 0.0, "kept_bases": 0.0, "nonfinite_gradients": 0.0}
        worst = 0.0
        for state in self.state.values():
            for name in counts:
                counts[name] += float(state[name]) if name in state else 0.0
            for name in ("basis_left", "basis_right"):
                if name in state:
                    worst = max(worst, orthonormality_error(state[name]))
        counts["capped_basis_lrs"] = float(sum(map(is_basis_lr_capped, self.param_groups)))
        return {**counts, "max_orthonormality_error": worst}


def orthonormality_error(P: Tensor) -> float:
    """Return ||P^T P - I||_F."""
    wide = P.to(torch.float64)
    identity = torch.eye(P.shape[1], dtype=torch.float64, device=P.device)
    return float(torch.linalg.matrix_norm(wide.mT @ wide - identity))


def _check_state(key: Any, values: Mapping[str, Any], slots: Mapping[str, Any]) -> None:
    saved = {
        name: (tuple(value.shape), low_bit.stored_dtype(value))
        if isinstance(value, Tensor)
        else None
        for name, value in values.items()
    }
    wanted = {name: (shape, dtype) for name, (shape, dtype, _) in slots.items()}
    if saved != wanted:
        wrong = sorted(n for n in saved.keys() | wanted.keys() if saved.get(n) != wanted.get(n))
        raise ValueError(
            f"the state of parameter {key} is not this optimizer's: {', '.join(wrong)} differ in "
            "presence, shape or dtype; was it saved by another method or with other options?"
        )


def _completed(saved: Mapping[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a saved group with the options that it lacks and without those that are not its own."""
    if own is None:
        return dict(saved)
    # Earlier versions had no `update`: what steps whole matrices was named as `moments`.
    is_earlier = "update" in own and "update" not in saved
    names = part_names(own if is_earlier else {**own, **saved}, {})
    known = _COMMON | known_options(names).keys()
    kept = {key: saved[key] for key in saved if key in known or key not in OPTION_NAMES}
    earlier = {key: value for key, value in EARLIER_OPTIONS.items() if key in own}
    return {key: own[key] for key in own if key in known} | earlier | kept | names
