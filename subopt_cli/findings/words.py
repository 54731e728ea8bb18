"""What reasons say: a text for each type of reason, or a function where the words depend on the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial, singledispatch
from string import Formatter
from typing import Any

from subopt.recipes.reason import Reason

from ..text import plural
from ..units import format_bytes


@singledispatch
def words(reason: Reason) -> str:
    """Return a reason in words: a sentence, or the part of one that the reasons around it are made of."""
    raise TypeError(f"{type(reason).__name__} has no words")


class _Texts(Formatter):
    """Fills a text with fields: other reasons in their words, options as a recipe writes them, `bytes` and counts.

    `{layers:layer}` is `1 layer` or `2 layers`, `{batches:batch|batches}` has a plural of its own.
    """

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Reason):
            return words(value)
        if isinstance(value, tuple):
            return ", ".join(map(words, value))
        if isinstance(value, Mapping):
            return ", ".join(f"{name}: {item}" for name, item in value.items())
        if format_spec == "bytes":
            return format_bytes(value)
        if format_spec[1:2].isalpha():
            return plural(value, *format_spec.split("|"))
        return str(super().format_field(value, format_spec))


def filled(text: str, reason: Reason, **more: Any) -> str:
    """Return a text with a reason's fields, and more, in the place of their names."""
    values = {field.name: getattr(reason, field.name) for field in fields(reason)}
    return _Texts().vformat(text, (), values | more)


def register(texts: Mapping[type[Reason], str]) -> None:
    """Register the texts of types of reasons."""
    for reason_type, text in texts.items():
        words.register(reason_type, partial(filled, text))


def described(value: Any) -> dict[str, str]:
    """Return what a JSON document says of a reason beside its fields; nothing of any other value."""
    return {"type": type(value).__name__, "text": words(value)} if isinstance(value, Reason) else {}
