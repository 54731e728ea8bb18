"""Overrides: other settings for the parameters whose name a pattern is found in. The first match wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subopt.errors import OptionError, suggestion

from .methods.method import FALLBACK_OPTIONS
from .methods.registry import get_method
from .name_patterns import compile_pattern
from .options import refuse_unknown
from .parameters import ParameterRole

# What an override may name beside a method: the recipe's fallback, or no training at all.
FALLBACK = "fallback"
FROZEN = "frozen"
SPECIAL = (FALLBACK, FROZEN)

OVERRIDE_KEYS = ("pattern", "method", "lr", "weight_decay", "options")

Override = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OverrideUse:
    """What an override came to in a model.

    Attributes:
        pattern: The override's pattern; None for the parameters that no override matches.
        method: What the override names: a method, `fallback`, `frozen`; None where it only changes settings.
        tensors: How many parameters it gets.
        parameters: How many numbers these hold.
    """

    pattern: str | None
    method: str | None
    tensors: int
    parameters: int


def checked_overrides(overrides: Sequence[Override]) -> Sequence[Override]:
    """Return overrides whose keys, patterns, methods and options are in order, whatever the model.

    Raises:
        OptionError: They are not.
    """
    for override in overrides:
        for key in override:
            if key not in OVERRIDE_KEYS:
                raise OptionError(f"unknown override key '{key}'{suggestion(key, OVERRIDE_KEYS)}")
        if not isinstance(override.get("pattern"), str):
            raise OptionError("an override needs a regular expression as its pattern")
        compile_pattern(override["pattern"])
        _check_method(override)
    return overrides


def _check_method(override: Override) -> None:
    named = override.get("method")
    if named in SPECIAL:
        check_special(named, {key: value for key, value in override.items() if value is not None})
    elif named is not None and get_method(named).layers:
        raise OptionError(
            f"an override cannot name '{named}', which replaces layers",
            f"make {named} the method of the whole model, and name other methods in overrides",
        )


def check_special(named: str, override: Override) -> None:
    """Refuse settings that mean nothing beside `fallback` or `frozen`."""
    options = override.get("options") or {}
    if named == FROZEN and (options or {"lr", "weight_decay"} & override.keys()):
        raise OptionError("an override that freezes takes no lr, weight_decay or options")
    refuse_unknown(options, FALLBACK_OPTIONS, "the fallback")


def override_for(overrides: Sequence[Override], item: ParameterRole) -> int | None:
    """Return the index of the override that a parameter gets; None where no pattern is found in its name."""
    for index, override in enumerate(overrides):
        if compile_pattern(override["pattern"]).search(item.shown_name):
            return index
    return None


def is_frozen(overrides: Sequence[Override], item: ParameterRole) -> bool:
    """Whether nothing trains it: the model says so, or an override."""
    index = override_for(overrides, item)
    return item.role == "frozen" or (index is not None and overrides[index].get("method") == FROZEN)


def check_use(
    overrides: Sequence[Override],
    items: Sequence[ParameterRole],
    is_treated: Callable[[ParameterRole], bool],
) -> None:
    """Refuse overrides that would change nothing, or whose options nothing would read.

    Args:
        overrides: The overrides.
        items: The parameters that are trained, were it not for overrides that freeze.
        is_treated: Whether the main method trains a parameter where no override says otherwise.

    Raises:
        OptionError: An override matches no parameter, or only such as earlier ones take, or no matrix for its options.
    """
    taken = [override_for(overrides, item) for item in items]
    for index, override in enumerate(overrides):
        pattern = override["pattern"]
        mine = [item for item, by in zip(items, taken, strict=True) if by == index]
        if not mine:
            _refuse_idle(pattern, items)
        unread = [key for key in override.get("options") or {} if key not in FALLBACK_OPTIONS]
        if unread and not override.get("method") and not any(is_treated(item) for item in mine):
            raise OptionError(
                f"the override '{pattern}' matches no matrix, so its option '{unread[0]}' means nothing",
                "name a method in the override, or change the pattern",
            )


def _refuse_idle(pattern: str, items: Sequence[ParameterRole]) -> None:
    if any(compile_pattern(pattern).search(item.shown_name) for item in items):
        raise OptionError(
            f"the override '{pattern}' gets nothing: earlier overrides match all that it does",
            "the first match wins: put the narrower override first",
        )
    names = [item.shown_name for item in items]
    hint = f"names are such as {', '.join(names[:3])}" if names else None
    raise OptionError(f"the override '{pattern}' matches no trained parameter's name", hint)


def override_uses(
    overrides: Sequence[Override], items: Sequence[ParameterRole]
) -> tuple[OverrideUse, ...]:
    """Return what each override gets of the parameters that the model does not freeze, and last the rest."""
    groups: dict[int | None, list[ParameterRole]] = {}
    for item in items:
        if item.role != "frozen":
            groups.setdefault(override_for(overrides, item), []).append(item)
    order: list[int | None] = [*range(len(overrides)), None]
    return tuple(
        OverrideUse(
            None if index is None else overrides[index]["pattern"],
            None if index is None else overrides[index].get("method"),
            len(found),
            sum(math.prod(item.shape) for item in found),
        )
        for index in order
        for found in [groups.get(index, [])]
    )
