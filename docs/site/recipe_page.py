"""The reference of the recipe file, from its schema and the comments that subopt writes into recipes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from tables import table

from subopt.recipes.recipe.write import COMMENTS
from subopt.recipes.schema import Recipe

INTRODUCTION = """# The recipe file

One YAML file says how a model is trained. `subopt recommend` writes it, with a comment for every choice; `subopt train`
reads it; any key can be overridden on the command line, as `subopt train recipe.yaml optimizer.lr=1e-3`.

Unknown keys, wrong types and values out of range are errors that name the file, the line and the key. Loading a recipe
runs no code; training it runs the model file it names, so train recipes whose model file you trust.
"""


def pages() -> dict[str, str]:
    """Return the page."""
    fields = Recipe.model_fields
    alone = [key for key in fields if _section(fields[key].annotation) is None]
    parts = [INTRODUCTION, "## At the top\n\n" + _table(Recipe, "", alone)]
    for key, field in fields.items():
        section = _section(field.annotation)
        if section is not None:
            parts += list(_sections(section, key))
    return {"recipe-file.md": "\n".join(parts)}


def _sections(section: type[BaseModel], dotted: str) -> Iterator[str]:
    text = " ".join(inspect.cleandoc(section.__doc__ or "").split())
    own = list(section.model_fields)
    yield f"## {dotted}\n\n{text}\n\n{_table(section, dotted, own)}"
    for key, field in section.model_fields.items():
        inner = _section(field.annotation)
        if inner is not None:
            yield from _sections(inner, f"{dotted}.{key}")


def _table(section: type[BaseModel], dotted: str, keys: list[str]) -> str:
    schema = section.model_json_schema()
    required = set(schema.get("required", ()))
    rows = []
    for key in keys:
        full = f"{dotted}.{key}".lstrip(".")
        described = schema["properties"][key]
        default = "required" if key in required else f"`{_shown(section, key)}`"
        rows.append((f"`{key}`", _kind(described), default, COMMENTS.get(full, "")))
    return table(("key", "value", "default", "meaning"), rows)


def _shown(section: type[BaseModel], key: str) -> str:
    default = section.model_fields[key].default
    if isinstance(default, BaseModel):
        return "{}"
    return (
        {True: "true", False: "false", None: "null"}.get(default, str(default))
        if (default is None or isinstance(default, bool))
        else str(default)
    )


def _kind(described: dict[str, Any]) -> str:
    """Return what a value may be, in words, from its JSON schema."""
    if "anyOf" in described:
        return " or ".join(dict.fromkeys(map(_kind, described["anyOf"])))
    if "$ref" in described:
        return "see below"
    if "enum" in described:
        return ", ".join(map(str, described["enum"]))
    if "const" in described:
        return str(described["const"])
    kind = described.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(described.get('items', {}))}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true, false",
    }
    words |= {"object": "mapping", "null": "null"}
    return words[kind] + _range(described) if kind in words else kind


def _range(described: dict[str, Any]) -> str:
    lowest = described.get("minimum", described.get("exclusiveMinimum"))
    highest = described.get("maximum", described.get("exclusiveMaximum"))
    if lowest is None:
        return ""
    above = " above" if "exclusiveMinimum" in described else " from"
    if highest is None or highest > 10**9:
        return f"{above} {lowest:g}"
    return f"{above} {lowest:g} to {highest:g}"


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a key holds: alone, where it may be missing, or in a list."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
