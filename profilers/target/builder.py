"""What in the user's file builds the model, and which optional functions stand beside it."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from subopt.errors import TargetError, suggestion

from .arguments import required_arguments, signature_of

# The functions a model's file may define beside its builder, and what each is called with.
OPTIONAL_FUNCTIONS = {
    "batches": ("batch_size",),
    "loss": ("model", "batch"),
    "eval_batches": ("batch_size",),
    "param_groups": ("model",),
}
_SHOWN_CANDIDATES = 8


@dataclass(frozen=True)
class Picked:
    """What builds the model.

    Attributes:
        name: Its name in the file.
        builder: The function or class to call, or the model itself.
        form: "function", "class" or "instance".
        reason: Why it was picked, where the user did not name it and it is not `build_model`; else "".
    """

    name: str
    builder: Callable[..., Any]
    form: str
    reason: str

    @property
    def description(self) -> str:
        """One phrase for the user."""
        return f"{self.form} {self.name}" + (f" ({self.reason})" if self.reason else "")


def pick_builder(module: ModuleType, place: str, attribute: str | None) -> Picked:
    """Find what builds the model: the named attribute, else `build_model`, else the only class that can be.

    That class is the one `nn.Module` subclass defined in this file that needs no arguments. A name after the colon
    may come from a recipe somebody else wrote, so it reaches only what the file itself defines, never what it imports.
    `build_model` is the file's own word for its builder, wherever it comes from.

    Args:
        module: The user's module.
        place: What to call it in messages: the target without its attribute.
        attribute: The name the user gave after the colon.

    Raises:
        TargetError: Nothing fits, or too much does; the hint lists the candidates with their signatures.
    """
    name, reason = _choose(module, place, attribute)
    builder = getattr(module, name)
    if isinstance(builder, nn.Module):
        form = "instance"
    elif isinstance(builder, type) and issubclass(builder, nn.Module):
        form = "class"
    elif callable(builder) and not isinstance(builder, type):
        form = "function"
    else:
        raise TargetError(
            f"{place}:{name} is {a_type(builder)}, not a model, a model class or a function that builds one",
            _candidates_hint(module, place),
        )
    if form != "instance" and name != "build_model":
        _check_defined_here(module, place, name, builder)
    return Picked(name, builder, form, reason)


def optional_functions(module: ModuleType, place: str) -> dict[str, Callable[..., Any]]:
    """Return those of `OPTIONAL_FUNCTIONS` that the module defines.

    Raises:
        TargetError: One is not a function, or cannot be called with its arguments.
    """
    functions: dict[str, Callable[..., Any]] = {}
    for name, arguments in OPTIONAL_FUNCTIONS.items():
        value = getattr(module, name, None)
        if value is None:
            continue
        wanted = f"{name}({', '.join(arguments)})"
        if not callable(value) or isinstance(value, nn.Module):
            raise TargetError(
                f"{name} in {place} is {a_type(value)}, not a function",
                f"define {wanted}, or give it another name",
            )
        try:
            signature_of(name, value).bind(*arguments)
        except TypeError:
            raise TargetError(
                f"{name} in {place} cannot be called as {wanted}",
                f"there it is {name}{_bare_signature(name, value)}",
            ) from None
        functions[name] = value
    return functions


def line_of(name: str, file: Path) -> int | None:
    """Return the line of the file's top level that binds a name, or None where none does."""
    line = None
    for node in ast.parse(file.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        bound = {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound = {node.name}
        elif isinstance(node, ast.ImportFrom):
            bound = {alias.asname or alias.name for alias in node.names}
        if name in bound:
            line = node.lineno
    return line


def a_type(value: object) -> str:
    """Return the name of a value's type with its article, such as "an int"."""
    name = "class" if isinstance(value, type) else type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _choose(module: ModuleType, place: str, attribute: str | None) -> tuple[str, str]:
    if attribute is not None:
        if not hasattr(module, attribute):
            raise TargetError(
                f"{place} has no '{attribute}'{suggestion(attribute, _candidates(module))}",
                _candidates_hint(module, place),
            )
        return attribute, ""
    if hasattr(module, "build_model"):
        return "build_model", ""
    classes = [
        name
        for name, value in _candidates(module).items()
        if isinstance(value, type) and not required_arguments(signature_of(name, value).parameters)
    ]
    if len(classes) == 1:
        return classes[0], "the only model class of the file that needs no arguments"
    few = "no build_model(), and no model class that needs no arguments"
    many = "no build_model(), and more than one model class that needs no arguments"
    raise TargetError(f"{place} has {many if classes else few}", _candidates_hint(module, place))


def _check_defined_here(module: ModuleType, place: str, name: str, builder: object) -> None:
    """Raise a TargetError where a builder was merely imported into the module."""
    home = getattr(builder, "__module__", None)
    if home != module.__name__:
        origin = f" but comes from {home}" if home else ""
        raise TargetError(
            f"{name} is not defined in {place}{origin}, and only what a model file defines can be called",
            "name the file of yours that defines it, or define build_model() and return the model from it",
        )


def _candidates(module: ModuleType) -> dict[str, Any]:
    """Return what could be the model or build it: instances and this file's classes first, then its functions."""
    found = {}
    for name, value in vars(module).items():
        is_own = getattr(value, "__module__", None) == module.__name__
        is_class = isinstance(value, type) and issubclass(value, nn.Module)
        if isinstance(value, nn.Module) or (is_own and (is_class or inspect.isfunction(value))):
            found[name] = value
    return {
        name: value
        for name, value in sorted(found.items(), key=lambda item: inspect.isfunction(item[1]))
        if name not in OPTIONAL_FUNCTIONS and not name.startswith("_")
    }


def _candidates_hint(module: ModuleType, place: str) -> str:
    candidates = _candidates(module)
    if not candidates:
        return "define build_model() in it, and return a torch.nn.Module"
    shown = [
        f"{name} (an instance)"
        if isinstance(value, nn.Module)
        else name + _bare_signature(name, value)
        for name, value in itertools.islice(candidates.items(), _SHOWN_CANDIDATES)
    ]
    more = len(candidates) - len(shown)
    listed = ", ".join(shown) + (f" and {more} more" if more else "")
    return f"name one, such as {place}:{next(iter(candidates))}; it has {listed}"


def _bare_signature(name: str, function: Callable[..., Any]) -> str:
    signature = signature_of(name, function)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
