"""Rules: other settings for the parameters whose name a pattern is found in. The first rule that matches wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subopt.errors import OptionError, suggestion

from .methods.method import FALLBACK_OPTIONS
from .methods.registry import get_method
from .name_patterns import compile_pattern
from .parameters import Treatment

# What a rule may name beside a method: the recipe's fallback, or no training at all.
FALLBACK = "fallback"
FROZEN = "frozen"
SPECIAL = (FALLBACK, FROZEN)

RULE_KEYS = ("pattern", "method", "lr", "weight_decay", "options")

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RuleUse:
    """What a rule came to in a model.

    Attributes:
        pattern: The rule's pattern; None for the parameters that no rule matches.
        method: What the rule names: a method, `fallback`, `frozen`; None where it only changes settings.
        tensors: How many parameters it gets.
        parameters: How many numbers these hold.
    """

    pattern: str | None
    method: str | None
    tensors: int
    parameters: int


def checked_rules(rules: Sequence[Rule]) -> Sequence[Rule]:
    """Return rules whose keys, patterns, methods and options are in order, whatever the model.

    Raises:
        OptionError: They are not.
    """
    for rule in rules:
        for key in rule:
            if key not in RULE_KEYS:
                raise OptionError(f"unknown rule key '{key}'{suggestion(key, RULE_KEYS)}")
        if not isinstance(rule.get("pattern"), str):
            raise OptionError("a rule needs a regular expression as its pattern")
        compile_pattern(rule["pattern"])
        _check_method(rule)
    return rules


def _check_method(rule: Rule) -> None:
    named = rule.get("method")
    if named in SPECIAL:
        check_special(named, {key: value for key, value in rule.items() if value is not None})
    elif named is not None and get_method(named).layers:
        raise OptionError(
            f"a rule cannot name '{named}', which replaces layers",
            f"make {named} the method of the whole model, and name other methods in rules",
        )


def check_special(named: str, rule: Rule) -> None:
    """Refuse settings that mean nothing beside `fallback` or `frozen`."""
    options = rule.get("options") or {}
    if named == FROZEN and (options or {"lr", "weight_decay"} & rule.keys()):
        raise OptionError("a rule that freezes takes no lr, weight_decay or options")
    for name in options:
        if name not in FALLBACK_OPTIONS:
            raise OptionError(
                f"the fallback has no option '{name}'{suggestion(name, FALLBACK_OPTIONS)}",
                f"its options: {', '.join(FALLBACK_OPTIONS)}",
            )


def rule_for(rules: Sequence[Rule], item: Treatment) -> int | None:
    """Return the index of the rule that a parameter gets; None where no pattern is found in its name."""
    for index, rule in enumerate(rules):
        if compile_pattern(rule["pattern"]).search(item.shown_name):
            return index
    return None


def is_frozen(rules: Sequence[Rule], item: Treatment) -> bool:
    """Whether nothing trains it: the model says so, or a rule."""
    index = rule_for(rules, item)
    return item.treatment == "frozen" or (
        index is not None and rules[index].get("method") == FROZEN
    )


def check_use(
    rules: Sequence[Rule], items: Sequence[Treatment], is_treated: Callable[[Treatment], bool]
) -> None:
    """Refuse rules that would change nothing, or whose options nothing would read.

    Args:
        rules: The rules.
        items: The parameters that are trained, were it not for rules that freeze.
        is_treated: Whether the main method trains a parameter where no rule says otherwise.

    Raises:
        OptionError: A rule matches no parameter, or only such as earlier rules take, or no matrix for its options.
    """
    taken = [rule_for(rules, item) for item in items]
    for index, rule in enumerate(rules):
        pattern = rule["pattern"]
        mine = [item for item, by in zip(items, taken, strict=True) if by == index]
        if not mine:
            _refuse_idle(pattern, items)
        unread = [key for key in rule.get("options") or {} if key not in FALLBACK_OPTIONS]
        if unread and not rule.get("method") and not any(is_treated(item) for item in mine):
            raise OptionError(
                f"the rule '{pattern}' matches no matrix, so its option '{unread[0]}' means nothing",
                "name a method in the rule, or change the pattern",
            )


def _refuse_idle(pattern: str, items: Sequence[Treatment]) -> None:
    if any(compile_pattern(pattern).search(item.shown_name) for item in items):
        raise OptionError(
            f"the rule '{pattern}' gets nothing: earlier rules match all that it does",
            "the first match wins: put the narrower rule first",
        )
    names = [item.shown_name for item in items]
    hint = f"names are such as {', '.join(names[:3])}" if names else None
    raise OptionError(f"the rule '{pattern}' matches no trained parameter's name", hint)


def rule_uses(rules: Sequence[Rule], items: Sequence[Treatment]) -> tuple[RuleUse, ...]:
    """Return what each rule gets of the parameters that the model does not freeze, and last what none of them does."""
    groups: dict[int | None, list[Treatment]] = {}
    for item in items:
        if item.treatment != "frozen":
            groups.setdefault(rule_for(rules, item), []).append(item)
    order: list[int | None] = [*range(len(rules)), None]
    return tuple(
        RuleUse(
            None if index is None else rules[index]["pattern"],
            None if index is None else rules[index].get("method"),
            len(found),
            sum(math.prod(item.shape) for item in found),
        )
        for index in order
        for found in [groups.get(index, [])]
    )
