"""The `key=value` pairs after a target: converted and checked against the builder's signature."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from subopt.errors import TargetError, UsageError, suggestion

Scalar = str | int | float | bool

_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
_BY_NAME = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})
_REST = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})


def bind_arguments(
    name: str, builder: Callable[..., Any], given: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """Return the arguments to call a builder with.

    A value is converted to the type of the parameter's annotation; without one to the type of its default; without
    either to whatever it looks like.

    Args:
        name: What to call the builder in messages.
        builder: The function or class that builds the model.
        given: Argument names and values, as text or already typed.

    Raises:
        UsageError: A name the builder does not have, a required one left out, or a value of the wrong type.
        TargetError: The builder has no signature to check against.
    """
    parameters = signature_of(name, builder).parameters
    by_name = {
        key: parameter for key, parameter in parameters.items() if parameter.kind in _BY_NAME
    }
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    hints = _type_hints(builder)
    values: dict[str, Scalar] = {}
    for key, value in given.items():
        if key not in by_name and not takes_any:
            known = ", ".join(map(str, by_name.values())) or "none"
            raise UsageError(
                f"{name} has no argument '{key}'{suggestion(key, by_name)}",
                f"its arguments: {known}",
            )
        parameter = by_name.get(key)
        accepted = _flatten(parameter and hints.get(key, parameter.annotation))
        default = parameter and parameter.default
        values[key] = _convert(name, key, str(value), accepted or _types_like(default))
    for key in required_arguments(parameters):
        if key not in values:
            raise UsageError(
                f"{name} needs a value for '{key}'", f"add it after the target: {key}=..."
            )
    return values


def convert_like(name: str, key: str, text: str, current: object) -> Scalar:
    """Return text as a value of the type that `current` has; where that is None, of what it looks like.

    Raises:
        UsageError: It cannot be read as that.
    """
    return _convert(name, key, text, _types_like(current))


def signature_of(name: str, builder: Callable[..., Any]) -> inspect.Signature:
    """Return a callable's signature.

    Raises:
        TargetError: It has none, as some compiled functions do.
    """
    try:
        return inspect.signature(builder)
    except (TypeError, ValueError):
        raise TargetError(
            f"{name} has no signature to check arguments against", "wrap it in a Python function"
        ) from None


def required_arguments(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return the names of the parameters a call cannot leave out."""
    return [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in _REST
    ]


def _type_hints(builder: Callable[..., Any]) -> dict[str, Any]:
    function: Any = builder
    if isinstance(builder, type):
        function = function.__init__
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names known only to a type checker
        return {}


def _types_like(value: object) -> tuple[type, ...]:
    """Return the types of what may replace a value, in the order to try them; all where it is no scalar."""
    if isinstance(value, bool):
        return (bool,)
    if isinstance(value, int):
        return (int, float)  # without an annotation a default of 0 does not rule out 0.5
    if isinstance(value, (float, str)):
        return (type(value),)
    return (int, float, bool, str)


def _flatten(annotation: Any) -> tuple[Any, ...]:
    """Return the scalar types and literal values of an annotation; empty where it says nothing we can check."""
    origin = typing.get_origin(annotation)
    if origin in {typing.Union, types.UnionType}:
        return tuple(kind for member in typing.get_args(annotation) for kind in _flatten(member))
    if origin is Literal:
        return tuple(typing.get_args(annotation))
    names = {"int": int, "float": float, "bool": bool, "str": str}
    kind = names.get(annotation, annotation) if isinstance(annotation, str) else annotation
    return (kind,) if kind in names.values() else ()


def _convert(name: str, key: str, text: str, accepted: tuple[Any, ...]) -> Scalar:
    # Text fits everything, so it comes last whatever the annotation's order.
    for kind in sorted(accepted, key=lambda kind: kind is str):
        if kind is bool and text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        if kind in {int, float}:
            try:
                number: int | float = kind(text)
                is_finite = math.isfinite(number)
            except (ValueError, OverflowError):  # the latter: an integer beyond what a float holds
                continue
            if is_finite:  # the profile is JSON, which has no NaN and no infinity
                return number
        if kind is str:
            return text
        if not isinstance(kind, type) and str(kind) == text:
            return typing.cast("Scalar", kind)
    wanted = " or ".join(
        kind.__name__ if isinstance(kind, type) else repr(kind) for kind in accepted
    )
    raise UsageError(f"{key}={text}: {name} takes {wanted} for '{key}'", "change the value")
