"""What reasons say: `words` has a function for each type of reason, registered by the files of this room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

from subopt.recipes.reason import Reason


@singledispatch
def words(reason: Reason) -> str:
    """Return a reason in words: a sentence, or the part of one that the reasons around it are made of."""
    raise TypeError(f"{type(reason).__name__} has no words")


def fixed(texts: Mapping[type[Reason], str]) -> None:
    """Register the words of reasons that have no numbers."""

    def always(text: str) -> Callable[[Reason], str]:
        return lambda _: text

    for reason_type, text in texts.items():
        words.register(reason_type, always(text))


def described(value: Any) -> dict[str, str]:
    """Return what a JSON document says of a reason beside its fields; nothing of any other value."""
    return {"type": type(value).__name__, "text": words(value)} if isinstance(value, Reason) else {}
