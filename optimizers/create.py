"""From a method's name and a model to its optimizer, with the right treatment of every parameter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from subopt.errors import OptionError, suggestion

from .composed import Composed
from .methods import get_method
from .options import OPTIONS, validated
from .table import FALLBACK_OPTIONS, FALLBACKS, Method
from .treatment import Treatment, treatments

_RULE_KEYS = ("pattern", "method", "lr", "options")
_FALLBACK_KEYS = ("method", "lr", "weight_decay")


def create(
    method: str,
    model: nn.Module,
    *,
    lr: float | Tensor = 1e-3,
    weight_decay: float = 0.0,
    fallback: str | Mapping[str, Any] | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
    exclude: Sequence[str] = (),
    groups: Iterable[Mapping[str, Any]] | None = None,
    **options: Any,
) -> Composed:
    """Build a method's optimizer for a model.

    Matrices get the method; embeddings, output heads, vectors and scalars get its fallback, which is AdamW and
    usually wants a learning rate of its own (see `treatments` for who is what).

    Args:
        method: A method id, such as "adadiag".
        model: The model; its parameters that require a gradient are trained.
        lr: Learning rate of the method.
        weight_decay: Decoupled decay, for the method and, unless it says otherwise, for the fallback.
        fallback: "same" to give the method every parameter, or {"method", "lr", "weight_decay"} of the
            fallback; by default the method table's choice at the same lr.
        rules: {"pattern", "method", "lr", "options"} for parameters whose name the regular expression is found in;
            the first match wins. A rule that names a method applies it whatever the treatment; one that does not
            changes the method's options for matrices, the fallback's for the rest.
        exclude: Regular expressions of names to leave to the fallback.
        groups: The user's own parameter groups: only their parameters are trained, and a group's `lr`,
            `weight_decay` or other keys override ours.
        **options: The method's options.

    Raises:
        OptionError: An unknown method, option, rule or fallback, or a value out of range.
    """
    plan = _Plan(
        get_method(method), lr, weight_decay, _fallback(fallback), options, _checked(rules)
    )
    described = treatments(model, exclude)
    if groups is None:
        assigned = [(plan.group(item), item) for item in described if item.treatment != "frozen"]
    else:
        assigned = _within(groups, {id(item.parameter): item for item in described}, plan)
    if not assigned:
        raise OptionError("the model has no parameter that requires a gradient")
    for rule in plan.rules:
        _check_use(rule, [item for _, item in assigned])
    return Composed(_collect(assigned))


class _Plan:
    """Which settings a parameter gets."""

    def __init__(
        self,
        method: Method,
        lr: float | Tensor,
        weight_decay: float,
        fallback: Mapping[str, Any],
        options: Mapping[str, Any],
        rules: Sequence[Mapping[str, Any]],
    ) -> None:
        self.method = method
        self.fallback = fallback
        self.rules = rules
        self.options = options
        self.matrix = {"method": method.name, "lr": lr, "weight_decay": weight_decay}
        self.matrix |= method.resolve(options)
        self.rest = self._rest(lr, weight_decay)

    def _rest(self, lr: float | Tensor, weight_decay: float) -> dict[str, Any]:
        given = {key: value for key, value in self.fallback.items() if value is not None}
        name = given.get("method", self.method.fallback)
        rest = {"method": name, "lr": lr, "weight_decay": weight_decay, **given}
        if name == "same":
            return rest | self.method.resolve(self.options) | {"method": self.method.name}
        return rest | self.method.fallback_options(self.options, name)

    def group(self, item: Treatment) -> dict[str, Any]:
        for rule in self.rules:
            if re.search(rule["pattern"], item.name):
                return self._ruled(rule, item)
        return self.matrix if item.treatment == "matrix" else self.rest

    def _ruled(self, rule: Mapping[str, Any], item: Treatment) -> dict[str, Any]:
        name, own = rule.get("method"), rule.get("options") or {}
        lr = {"lr": rule["lr"]} if rule.get("lr") is not None else {}
        if name is not None:
            return self.matrix | {"method": name} | get_method(name).resolve(own) | lr
        if item.treatment == "matrix":
            return self.matrix | self.method.resolve({**self.options, **own}) | lr
        shared = {key: value for key, value in own.items() if key in FALLBACK_OPTIONS}
        return self.rest | validated({key: self.rest[key] for key in OPTIONS} | shared) | lr


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


def _checked(rules: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    for rule in rules:
        for key in rule:
            if key not in _RULE_KEYS:
                raise OptionError(f"unknown rule key '{key}'{suggestion(key, _RULE_KEYS)}")
        try:
            re.compile(rule["pattern"])
        except (KeyError, re.error) as error:
            raise OptionError(
                f"a rule needs a regular expression as its pattern: {error}"
            ) from None
    return rules


def _check_use(rule: Mapping[str, Any], items: Sequence[Treatment]) -> None:
    """Refuse a rule that would change nothing, or whose options nothing would read."""
    matched = [item for item in items if re.search(rule["pattern"], item.name)]
    if not matched:
        raise OptionError(f"the rule '{rule['pattern']}' matches no trained parameter's name")
    unread = [key for key in rule.get("options") or {} if key not in FALLBACK_OPTIONS]
    takes_method = rule.get("method") or any(item.treatment == "matrix" for item in matched)
    if unread and not takes_method:
        raise OptionError(
            f"the rule '{rule['pattern']}' matches no matrix, so its option '{unread[0]}' means nothing",
            "name a method in the rule, or change the pattern",
        )


def _within(
    groups: Iterable[Mapping[str, Any]], described: Mapping[int, Treatment], plan: _Plan
) -> list[tuple[dict[str, Any], Treatment]]:
    assigned = []
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
            if item.treatment != "frozen":
                assigned.append((plan.group(item) | own, item))
    return assigned


def _collect(assigned: list[tuple[dict[str, Any], Treatment]]) -> list[dict[str, Any]]:
    """Merge parameters of equal settings into groups, in order of first appearance."""
    groups: list[dict[str, Any]] = []
    for settings, item in assigned:
        pair = (item.name, item.parameter)
        for group in groups:
            if {key: value for key, value in group.items() if key != "params"} == settings:
                group["params"].append(pair)
                break
        else:
            groups.append({"params": [pair], **settings})
    return groups
