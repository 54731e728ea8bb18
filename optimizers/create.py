"""From a method's name and a model to its optimizer, with the right group for every parameter."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from subopt.errors import OptionError, RenamedWarning, suggestion

from .composition import resolved
from .methods.method import FALLBACK_OPTIONS, FALLBACKS, Method
from .methods.registry import get_method
from .optimizer import Composed
from .options import CommonOptions, options_of
from .overrides import FALLBACK, check_use, checked_overrides, is_frozen, override_for
from .parameters import ParameterRole, parameter_roles
from .state import low_bit

_FALLBACK_KEYS = ("method", "lr", "weight_decay")
_COMMON = options_of(CommonOptions)


def create(
    method: str,
    model: nn.Module,
    *,
    lr: float | Tensor = 1e-3,
    weight_decay: float = 0.0,
    fallback: str | Mapping[str, Any] | None = None,
    overrides: Sequence[Mapping[str, Any]] = (),
    exclude: Sequence[str] = (),
    groups: Iterable[Mapping[str, Any]] | None = None,
    **options: Any,
) -> Composed:
    """Build a method's optimizer for a model.

    Matrices get the method; embeddings, output heads, vectors and scalars get its fallback, which is AdamW and
    usually wants a learning rate of its own (see `parameter_roles` for who is what).

    A method that replaces layers (see `Method.layers`) does so here, in place: look a parameter up after this call, not
    before it. The dense weights are in `get_method(method).dense_state_dict(model)` at any time.

    Args:
        method: A method id, such as "adadiag".
        model: The model; its parameters that require a gradient are trained.
        lr: Learning rate of the method.
        weight_decay: Decoupled decay, for the method and, unless it says otherwise, for the fallback.
        fallback: "same" to give the method every parameter, or {"method", "lr", "weight_decay"} of the
            fallback; by default the method table's choice at the same lr.
        overrides: {"pattern", "method", "lr", "weight_decay", "options"} for parameters whose name the regular
            expression is found in; the first match wins. An override that names a method applies it whatever the role;
            one that does not changes the method's options for matrices, the fallback's for the rest. "fallback" as a
            method leaves them to the fallback; "frozen" clears their `requires_grad`, in the model itself.
        exclude: Regular expressions of names to leave to the fallback.
        groups: The user's own parameter groups: only their parameters are trained, and a group's `lr`, `weight_decay`,
            `maximize` and options override ours, an option where the parameter's method has it.
        **options: The method's options.

    Raises:
        OptionError: An unknown method, option, override or fallback, a value out of range, or an option in a group that
            none of its parameters' methods has.
    """
    if "rules" in options:
        warnings.warn(RenamedWarning("the argument rules is called overrides now"), stacklevel=2)
        overrides = options.pop("rules")
    plan = _Plan(
        get_method(method),
        lr,
        weight_decay,
        _fallback(fallback),
        options,
        checked_overrides(overrides),
    )
    described = parameter_roles(model, exclude)
    if groups is None:
        trained = (item for item in described if item.role != "frozen")
        offered: list[tuple[Mapping[str, Any], ParameterRole]] = [({}, item) for item in trained]
    else:
        offered = _within(groups, {id(item.parameter): item for item in described})
    check_use(plan.overrides, [item for _, item in offered], plan.is_treated)
    assigned = _assigned(offered, plan)
    if not assigned:
        raise OptionError("the model has no parameter that requires a gradient")
    if any(low_bit.is_asked_for(settings) for settings, _ in assigned):
        low_bit.require()
    successors = _replace(model, assigned, plan)
    return plan.method.optimizer(_collect(assigned, successors), model)


class _Plan:
    """Which settings a parameter gets."""

    def __init__(
        self,
        method: Method,
        lr: float | Tensor,
        weight_decay: float,
        fallback: Mapping[str, Any],
        options: Mapping[str, Any],
        overrides: Sequence[Mapping[str, Any]],
    ) -> None:
        self.method = method
        self.fallback = fallback
        self.overrides = overrides
        self.options = options
        self.rates: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        self.is_same = fallback.get("method") == "same"
        if self.is_same and method.layers:
            raise OptionError(
                f"'{method.name}' replaces layers and cannot be its own fallback",
                f"the fallback is one of {', '.join(FALLBACKS)}",
            )
        method.resolve(options)  # refuses them whatever the parameters

    def group(self, item: ParameterRole, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return them for one that is trained; `own` is what its group says itself."""
        index = override_for(self.overrides, item)
        override = {} if index is None else self.overrides[index]
        named, asked = override.get("method"), override.get("options") or {}
        own_options = {name: value for name, value in own.items() if name not in _COMMON}
        if named not in {None, FALLBACK}:
            method = get_method(named)
            found = {"method": named} | self.rates
            found |= method.resolve({**asked, **_among(own_options, method.tunable)})
        elif named is None and self.is_treated(item):
            known = _among(own_options, self.method.tunable)
            found = {"method": self.method.name} | self.rates
            found |= self.method.resolve({**self.options, **asked, **known})
        else:
            if named == FALLBACK and self.is_same:
                raise OptionError(
                    f"the override '{override['pattern']}' leaves parameters to a fallback that is the method itself",
                    f"name a fallback: {', '.join(FALLBACKS)}",
                )
            found = self._rest({**asked, **own_options})
        found |= {name: override[name] for name in self.rates if override.get(name) is not None}
        return found | _among(own, _COMMON)

    def _rest(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of what is left to the fallback, with those of the options that it has."""
        given = {key: value for key, value in self.fallback.items() if value is not None}
        name = self.method.name if self.is_same else given.get("method", self.method.fallback)
        known = _among(options, FALLBACK_OPTIONS)
        if self.is_same:
            found = self.method.resolve({**self.options, **_among(known, self.method.tunable)})
        else:
            found = resolved(known, self.method.fallback_options(self.options, name))
        return self.rates | given | {"method": name} | found

    def is_treated(self, item: ParameterRole) -> bool:
        """Whether the method trains it, where no override says otherwise."""
        return item.role == "matrix" and self.method.accepts(item.layer_type)

    def is_replaced(self, settings: Mapping[str, Any], item: ParameterRole) -> bool:
        """Whether its layer gives way to one of the method's."""
        return settings["method"] == self.method.name and self.is_treated(item)


def _settable(method: str) -> tuple[str, ...]:
    """Return the options that may be set of a method, or of one that only falls back."""
    return FALLBACK_OPTIONS if method in FALLBACKS else get_method(method).tunable


def _among(options: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in known if name in options}


def _fallback(fallback: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
    chosen = {"method": fallback} if isinstance(fallback, str) else fallback or {}
    for key in chosen:
        if key not in _FALLBACK_KEYS:
            raise OptionError(f"unknown fallback key '{key}'{suggestion(key, _FALLBACK_KEYS)}")
    name = chosen.get("method")
    if name is not None and name not in {"same", *FALLBACKS}:
        raise OptionError(
            f"unknown fallback '{name}'", f"it is one of same, {', '.join(FALLBACKS)}"
        )
    return chosen


def _within(
    groups: Iterable[Mapping[str, Any]], described: Mapping[int, ParameterRole]
) -> list[tuple[Mapping[str, Any], ParameterRole]]:
    """Return the trained parameters of the user's own groups, with what the groups set."""
    offered: list[tuple[Mapping[str, Any], ParameterRole]] = []
    for group in groups:
        own = {key: value for key, value in group.items() if key not in {"params", "name"}}
        params = group["params"]
        for entry in [params] if isinstance(params, Tensor) else params:
            parameter = entry[1] if isinstance(entry, tuple) else entry
            if id(parameter) not in described:
                raise OptionError(
                    "param_groups(model) returned a parameter that is not the model's"
                )
            item = described[id(parameter)]
            if item.role != "frozen":
                offered.append((own, item))
    return offered


def _assigned(
    offered: Sequence[tuple[Mapping[str, Any], ParameterRole]], plan: _Plan
) -> list[tuple[dict[str, Any], ParameterRole]]:
    """Return every parameter's settings; what an override freezes gets none and no gradient any more.

    Raises:
        OptionError: A group has an option that nothing of its parameters would read.
    """
    assigned = []
    unread = {id(own): set(own) for own, _ in offered}
    for own, item in offered:
        if is_frozen(plan.overrides, item):
            item.parameter.requires_grad_(False)
            continue
        settings = plan.group(item, own)
        unread[id(own)] -= {*_COMMON, *_settable(settings["method"])}
        assigned.append((settings, item))
    for name in sorted(set().union(*unread.values())):
        known = [*_COMMON, *_settable(plan.method.name)]
        raise OptionError(
            f"the parameters of a group have no option '{name}'{suggestion(name, known)}",
            f"options of {plan.method.name} that a group may set: {', '.join(known)}",
        )
    return assigned


def _replace(
    model: nn.Module, assigned: Sequence[tuple[dict[str, Any], ParameterRole]], plan: _Plan
) -> Mapping[str, list[tuple[str, Tensor]]]:
    """Let the method put its own layers in place; return what came of each weight that is gone."""
    method = plan.method
    if not method.layers:
        return {}
    replaced = {
        item.name: settings for settings, item in assigned if plan.is_replaced(settings, item)
    }
    if not replaced:
        raise OptionError(
            f"the model has no layer that {method.name} could replace",
            f"it replaces plain torch layers: {', '.join(sorted(method.layers))}",
        )
    return method.replace(model, replaced)


def _collect(
    assigned: list[tuple[dict[str, Any], ParameterRole]],
    successors: Mapping[str, list[tuple[str, Tensor]]],
) -> list[dict[str, Any]]:
    """Merge parameters of equal settings into groups, in order of first appearance; successors stand for a weight."""
    groups: list[dict[str, Any]] = []
    for settings, item in assigned:
        pairs = successors.get(item.name, [(item.name, item.parameter)])
        for group in groups:
            if {key: value for key, value in group.items() if key != "params"} == settings:
                group["params"] += pairs
                break
        else:
            groups.append({"params": list(pairs), **settings})
    return groups
