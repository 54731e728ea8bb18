"""Where words go: data to stdout, everything else to stderr, and nothing beside one JSON document.

Colours and widths are rich's business: it honours NO_COLOR, COLUMNS, and output that is not a terminal.
Markup is off, because file names, shapes and messages are full of square brackets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Rich leaves the escape character in a text, by which a name out of somebody's file could command the terminal.
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})


class PlainConsole(Console):
    """A console that prints of every text what can be seen; colours and the cursor are rich's alone."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of something to print, without control characters in their texts."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else segment._replace(text=segment.text.translate(_CONTROLS))
            )


class Output:
    """One command's output.

    Args:
        as_json: The command prints one JSON document: `show` is silent and only `document` writes to stdout.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.data = PlainConsole(markup=False, highlight=False, emoji=False)
        self.notes = PlainConsole(stderr=True, markup=False, highlight=False, emoji=False)

    def show(self, *renderables: RenderableType) -> None:
        """Print results for a person on stdout, one blank line between them."""
        if self.as_json:
            return
        for index, renderable in enumerate(renderables):
            if index:
                self.data.print()
            self.data.print(renderable)

    def document(self, document: Any) -> None:
        """Print one JSON document on stdout, where `--json` asked for it."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")

    def note(self, text: str, style: str = "") -> None:
        """Print a remark on stderr."""
        self.notes.print(Text(text, style), soft_wrap=not self.notes.is_terminal)

    def aside(self, renderable: RenderableType) -> None:
        """Print something for a person on stderr."""
        self.notes.print(renderable)

    def warning(self, text: str) -> None:
        """Print a warning on stderr."""
        self._labelled("warning", "bold yellow", text)

    def error(self, message: str, hint: str | None = None) -> None:
        """Print what went wrong on stderr and, on a line of its own, what to do."""
        self._labelled("error", "bold red", message)
        if hint:
            self._labelled("hint", "bold", hint)

    def _labelled(self, label: str, style: str, text: str) -> None:
        # Outside a terminal a message stays on its own line however long it is: logs are searched by line.
        line = Text.assemble((f"{label}:", style), f" {text}")
        self.notes.print(line, soft_wrap=not self.notes.is_terminal)

    @contextlib.contextmanager
    def guarded_stdout(self) -> Iterator[None]:
        """Send what the user's code prints to stderr, so that stdout holds our results alone."""
        with contextlib.redirect_stdout(sys.stderr):
            yield


def plain(value: Any, described: Callable[[Any], Mapping[str, Any]] = lambda _: {}) -> Any:
    """Return a record as what JSON can hold: records become mappings, an enum's member its name, a path its text.

    Args:
        value: The record, or something of a record.
        described: What to say of a record beside its fields.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {**plain(fields, described), **described(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(key): plain(item, described) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, described) for item in value]
    return str(value) if isinstance(value, Path) else value
