"""Reading a recipe: from YAML text to a checked `Recipe`, with file, line and key in every complaint."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from subopt.errors import (
    AdjustedWarning,
    FileFormatError,
    OptionError,
    RenamedWarning,
    UsageError,
    suggestion,
)

from ..schema import Recipe
from .conflicts import conflicts
from .write import dump_recipe
from .yaml_source import KeyPath, Source, parse_source, read_source

__all__ = ["dump_recipe", "load_recipe", "parse_recipe", "with_settings"]

# Keys of earlier versions, by section, and their names now.
_RENAMED = {("optimizer", "rules"): "overrides"}
# Setting one of these makes the peak and the time that the recipe predicts those of another run.
_PREDICTION_RESTS_ON = {"model", "data", "optimizer", "precision"}
_PREDICTION_RESTS_ON |= {"recompute", "fused_backward", "compile"}
_PREDICTED = ("predicted_state_bytes", "predicted_peak_bytes", "predicted_step_ms", "step_factor")
_WARMUP_BY_HAND = {("schedule",), ("schedule", "warmup_steps")}


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        FileFormatError: The file is missing, not YAML, or not a valid recipe; the message names file, line and key,
            and the nearest valid key or method where one is near.
    """
    return _validate(read_source(path))


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """Check a recipe given as YAML text; `name` stands for the file in messages."""
    return _validate(parse_source(text, name))


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return the recipe with dotted keys replaced, such as `schedule.steps=200`.

    Values are read as YAML. Where a setting changes what a predicted peak or time rests on, that prediction is
    dropped: it belonged to another run. Where the run's length is set alone, and the warm-up would outlast it, the
    warm-up becomes shorter in proportion, with an AdjustedWarning.

    Raises:
        UsageError: Not `key=value`, an unknown key, or a value that makes the recipe invalid.
    """
    data = recipe.model_dump(mode="python")
    touched: set[tuple[str, ...]] = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"'{setting}' is not key=value", "write it like schedule.steps=200")
        path = tuple(key.split("."))
        try:
            value = parse_source(text, "value").data
        except FileFormatError as error:
            raise UsageError(f"{setting}: {error.message}") from None
        _replace(data, path, value, setting)
        touched.add(path)
    if ("schedule", "steps") in touched and not touched & _WARMUP_BY_HAND:
        _shorten_warmup(recipe, data["schedule"])
    if {section for section, *_ in touched} & _PREDICTION_RESTS_ON:
        data["why"] |= dict.fromkeys(_PREDICTED)
    try:
        return _validate(Source("command line", data, {}))
    except FileFormatError as error:
        message = re.sub(r"^command line:1:? ?", "", error.message)
        raise UsageError(message, error.hint) from None


def _shorten_warmup(recipe: Recipe, schedule: dict[str, Any]) -> None:
    """Let the warm-up end before the run does, which a setting made shorter."""
    steps, before = schedule["steps"], recipe.schedule.warmup_steps
    if type(steps) is not int or not 1 <= steps <= before:
        return
    schedule["warmup_steps"] = after = recipe.schedule.over(steps).warmup_steps
    message = f"schedule.warmup_steps is {after} and not {before}, in proportion to schedule.steps={steps}"
    warnings.warn(AdjustedWarning(message), stacklevel=3)


def _validate(source: Source) -> Recipe:
    source = _with_new_names(source)
    if not isinstance(source.data, Mapping):
        what = "empty" if source.data is None else f"a {type(source.data).__name__}"
        raise FileFormatError(f"{source.where(())}: a recipe is a mapping of keys, this is {what}")
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        raise _first_complaint(error, source) from None
    for path, method, options in _method_uses(recipe):
        try:
            _resolve(method, options)
        except OptionError as error:
            at = _guilty_key(path, method, options)
            raise FileFormatError(f"{source.where(at)}: {error.message}", error.hint) from None
    for found in conflicts(recipe):
        raise FileFormatError(f"{source.where(found.key)}: {found.message}", found.hint)
    return recipe


def _with_new_names(source: Source) -> Source:
    """Return the document with keys of earlier versions under their names now, and warn of each."""
    for (section, old), new in _RENAMED.items():
        inside = source.data.get(section) if isinstance(source.data, Mapping) else None
        if isinstance(inside, Mapping) and old in inside and new not in inside:
            warnings.warn(
                RenamedWarning(f"{source.where((section, old))} is called {new} now"), stacklevel=2
            )
            values = {new if key == old else key: value for key, value in inside.items()}
            lines = {
                (section, new, *path[2:]) if path[:2] == (section, old) else path: line
                for path, line in source.lines.items()
            }
            source = Source(source.name, {**source.data, section: values}, lines)
    return source


def _method_uses(recipe: Recipe) -> Iterator[tuple[KeyPath, str, dict[str, Any]]]:
    """Yield every (key path, method, options); an override without a method adds its options to the main ones."""
    from subopt.optimizers.overrides import SPECIAL

    main = recipe.optimizer
    yield ("optimizer",), main.method, main.options
    for index, override in enumerate(main.overrides):
        if override.method not in SPECIAL:
            options = override.options if override.method else main.options | override.options
            yield ("optimizer", "overrides", index), override.method or main.method, options


def _resolve(method: str, options: Mapping[str, Any]) -> None:
    from subopt.optimizers import get_method

    get_method(method).resolve(dict(options))


def _guilty_key(path: KeyPath, method: str, options: Mapping[str, Any]) -> KeyPath:
    """Return the key that `resolve` refuses: the method, one option, or all options together."""
    try:
        _resolve(method, {})
    except OptionError:
        return (*path, "method")
    for key, value in options.items():
        try:
            _resolve(method, {key: value})
        except OptionError:
            return (*path, "options", key)
    return (*path, "options")


def _first_complaint(error: ValidationError, source: Source) -> FileFormatError:
    found = [
        (_in_document(tuple(item["loc"]), source.data, item["type"]), item)
        for item in error.errors(include_url=False)
    ]
    # A key that is missing beside an unknown one may be that one, misspelt: the unknown one is named, with its line.
    unknown_in = {path[:-1] for path, item in found if item["type"] == "extra_forbidden"}
    told = [
        pair for pair in found if pair[1]["type"] != "missing" or pair[0][:-1] not in unknown_in
    ]
    # what stands first in the file is what the reader should look at first
    path, first = min(told, key=lambda pair: (source.line_of(pair[0]), len(pair[0])))
    if first["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        what = f"unknown key '{path[-1]}'" + suggestion(str(path[-1]), known)
        return FileFormatError(f"{source.where(path)}: {what}", "valid here: " + ", ".join(known))
    what = " or ".join(sorted({_say(item) for at, item in told if at == path}))
    if first["type"] not in {"missing", "value_error"}:
        what += f", not {_shown(first['input'])}"
    return FileFormatError(f"{source.where(path)}: {what}", _hint(path, first))


def _hint(path: KeyPath, item: Any) -> str | None:
    """Say what to set where it is not the key itself that is wrong but two that do not agree."""
    if path != ("schedule",) or item["type"] != "value_error":
        return None
    steps = item["input"]["steps"]
    return f"set the warm-up too, such as schedule.warmup_steps={steps // 10}"


def _in_document(loc: KeyPath, data: Any, kind: str) -> KeyPath:
    """Cut from pydantic's location the parts that name a type of a union rather than a key."""
    if kind == "missing":
        return loc
    path: KeyPath = ()
    for part in loc:
        inside = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if not inside:
            break
        data = data[part]
        path = (*path, part)
    return path


def _say(item: Any) -> str:
    message = str(item["msg"])
    if item["type"] == "missing":
        return "this key is required"
    message = message.removeprefix("Value error, ")
    for pydantic_says, we_say in (
        ("Input should be a valid ", "must be a "),
        ("Input should be ", "must be "),
        ("string", "text"),
        ("boolean", "true or false"),
        ("dictionary", "mapping of keys"),
        ("a integer", "a whole number"),
    ):
        message = message.replace(pydantic_says, we_say)
    return message.replace("must be a mapping of keys or instance of", "must be a mapping for")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _known_keys(path: KeyPath) -> list[str]:
    """Return the keys the schema allows at a path."""
    model: type[BaseModel] = Recipe
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def _replace(data: dict[str, Any], path: tuple[str, ...], value: Any, setting: str) -> None:
    at = data
    for depth, part in enumerate(path[:-1]):
        if not isinstance(at.get(part), dict):
            known = [key for key, inner in at.items() if isinstance(inner, dict)]
            dotted = ".".join(path[: depth + 1])
            raise UsageError(f"{setting}: there is no section '{dotted}'{suggestion(part, known)}")
        at = at[part]
    at[path[-1]] = value
