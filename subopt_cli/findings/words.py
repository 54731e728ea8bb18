"""What reasons say: a text for each type of reason, or a function where the words depend on the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, singledispatch
from string import Formatter
from typing import Any

from subopt.recipes.reason import Reason

from ..text import percent, plural
from ..units import format_bytes


@singledispatch
def words(reason: Reason) -> str:
    """Return a reason in words: a sentence, or the part of one that the reasons around it are made of."""
    raise TypeError(f"{type(reason).__name__} has no words")


class _Texts(Formatter):
    """Fills a text with fields: other reasons in their words, options as a recipe writes them, `bytes` and counts.

    `{layers:layer}` is `1 layer` or `2 layers`, `{batches:batch|batches}` has a plural of its own,
    `{gain:lower loss}` is `5% lower loss` or `5% higher loss`, and `{counts:yes|no}` is one of the two.
    """

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return kwargs[str(key)] if key in kwargs else getattr(args[0], str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Reason):
            return words(value)
        if isinstance(value, tuple):
            return ", ".join(map(words, value))
        if isinstance(value, Mapping):
            return ", ".join(f"{name}: {item}" for name, item in value.items())
        if isinstance(value, bool):
            return format_spec.split("|")[not value]
        if format_spec == "bytes":
            return format_bytes(value)
        if format_spec.startswith("lower "):
            return gain_text(value, format_spec.removeprefix("lower "))
        if format_spec[1:2].isalpha():
            return plural(value, *format_spec.split("|"))
        return str(super().format_field(value, format_spec))


def gain_text(gain: float, measure: str) -> str:
    """Return a gain in words, such as `5% lower loss`."""
    if abs(gain) < 0.0005:
        return f"the same {measure}"
    return f"{percent(abs(gain))} {'lower' if gain > 0 else 'higher'} {measure}"


def filled(text: str, reason: Reason, **more: Any) -> str:
    """Return a text with a reason's fields, and more, in the place of their names."""
    return _Texts().vformat(text, (reason,), more)


def register(texts: Mapping[type[Reason], str]) -> None:
    """Register the texts of types of reasons."""
    for reason_type, text in texts.items():
        words.register(reason_type, partial(filled, text))


def described(value: Any) -> dict[str, str]:
    """Return what a JSON document says of a reason beside its fields; nothing of any other value."""
    return {"type": type(value).__name__, "text": words(value)} if isinstance(value, Reason) else {}
